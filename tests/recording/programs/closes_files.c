/* Closes every descriptor it did not open, as daemons do, opens files of its own in their place, and
 * allocates on; fails where one of its files was changed. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void* volatile sink;

int main(void) {
  for (int fd = 3; fd < 1024; ++fd) close(fd);
  for (int fd = 3; fd < 1020; ++fd) {
    if (memfd_create("own", 0) < 0) return 1;
  }
  for (int i = 0; i < 500000; ++i) {
    sink = malloc(16);
    free(sink);
  }
  for (int fd = 3; fd < 1020; ++fd) {
    struct stat own;
    if (fstat(fd, &own) == 0 && own.st_size != 0) return 2;
  }
  return 0;
}
