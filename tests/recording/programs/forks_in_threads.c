/* Forks while three threads allocate through ever new stacks: a child begins in the midst of whatever these
 * do, and allocates 5,151 bytes. Argument: how many children, one after the other. */
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile bool done;
static void* volatile sink;

/* Each of the two calls is another stack: two to the depth of them. */
__attribute__((noinline)) static void branch(int depth, unsigned path) {
  if (depth == 0) {
    free(malloc(40));
  } else if (path & 1) {
    branch(depth - 1, path >> 1);
  } else {
    branch(depth - 1, path >> 1);
    __asm__ volatile("");
  }
  __asm__ volatile("");
}

static void* run(void* seed) {
  unsigned path = (unsigned)(size_t)seed;
  while (!done) {
    path = path * 1664525 + 1013904223;
    branch(12, path >> 16);
  }
  return NULL;
}

__attribute__((noinline)) static void in_child(void) {
  sink = malloc(5151);
  __asm__ volatile("");
}

int main(int count, char** arguments) {
  const int children = count > 1 ? atoi(arguments[1]) : 10;
  pthread_t ids[3];
  for (int i = 0; i < 3; ++i) pthread_create(&ids[i], NULL, run, (void*)(size_t)(i + 1));
  for (int i = 0; i < children; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      in_child();
      _exit(0);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) return 1;
  }
  done = true;
  for (int i = 0; i < 3; ++i) pthread_join(ids[i], NULL);
  return 0;
}
