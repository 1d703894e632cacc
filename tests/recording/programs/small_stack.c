/* A thread with as small a stack as the library allows asks for 10,031 bytes. */
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>

static void* volatile sink;

__attribute__((noinline)) static void on_small_stack(void) {
  sink = malloc(10031);
  __asm__ volatile("");
}

static void* run(void* unused) {
  on_small_stack();
  __asm__ volatile("");
  return unused;
}

int main(void) {
  pthread_attr_t attributes;
  pthread_t id;
  pthread_attr_init(&attributes);
  if (pthread_attr_setstacksize(&attributes, PTHREAD_STACK_MIN) != 0) return 1;
  if (pthread_create(&id, &attributes, run, NULL) != 0) return 2;
  return pthread_join(id, NULL);
}
