/* A timer interrupts a thread that allocates without pause, ten thousand times a second, and its handler
 * allocates too. Needs an allocator that can be interrupted: it is linked with bump.c. Argument:
 * how many interruptions to wait for. */
#include <signal.h>
#include <stdlib.h>
#include <sys/time.h>

static volatile long interruptions;

static void handle(int number) {
  (void)number;
  void* object = malloc(48);
  object = realloc(object, 96);
  free(object);
  ++interruptions;
}

int main(int count, char** arguments) {
  const long wanted = count > 1 ? atol(arguments[1]) : 1000;
  const struct itimerval every = {{0, 100}, {0, 100}};
  signal(SIGALRM, handle);
  setitimer(ITIMER_REAL, &every, NULL);
  void* kept = malloc(16);
  while (interruptions < wanted) {
    free(malloc(24));
    kept = realloc(kept, 32);
  }
  free(kept);
  return 0;
}
