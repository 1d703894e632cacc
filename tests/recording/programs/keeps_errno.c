/* Fails where a call that succeeds changes errno, however much the recorder has to do meanwhile. */
#include <errno.h>
#include <stdlib.h>

int main(void) {
  for (int i = 0; i < 200000; ++i) {
    errno = 77;
    void* object = malloc(32);
    if (errno != 77) return 1;
    object = realloc(object, 64);
    if (errno != 77) return 2;
    free(object);
    if (errno != 77) return 3;
  }
  return 0;
}
