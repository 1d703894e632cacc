/* Threads that allocate through the same functions and through one of their own each, and free for each
 * other; what thread n asks for in its own function has 20,000 + n bytes. Arguments: threads, rounds. */
#include <pthread.h>
#include <stdlib.h>

#define MAX_THREADS 8

static void* shelf[MAX_THREADS];

__attribute__((noinline)) static void* shared(size_t bytes) {
  void* object = malloc(bytes);
  __asm__ volatile("");
  return object;
}

#define OWN(n)                                                                                              \
  __attribute__((noinline)) static void own_##n(void) {                                                     \
    void* object = __atomic_exchange_n(&shelf[(n + 1) % MAX_THREADS], malloc(20000 + n), __ATOMIC_ACQ_REL); \
    free(object);                                                                                           \
  }
OWN(0)
OWN(1)
OWN(2)
OWN(3)
OWN(4)
OWN(5)
OWN(6)
OWN(7)
static void (*const own[MAX_THREADS])(void) = {own_0, own_1, own_2, own_3, own_4, own_5, own_6, own_7};

static long rounds;

__attribute__((noinline)) static void deep(int depth, size_t bytes) {
  if (depth > 0) {
    deep(depth - 1, bytes);
  } else {
    free(shared(bytes));
  }
  __asm__ volatile("");
}

static void* run(void* number) {
  const int n = (int)(size_t)number;
  for (long i = 0; i < rounds; ++i) {
    own[n]();
    deep((int)(i % 20), 30000 + (size_t)(i % 20));
  }
  return NULL;
}

int main(int count, char** arguments) {
  const int threads = count > 1 ? atoi(arguments[1]) : 4;
  rounds = count > 2 ? atol(arguments[2]) : 1000;
  pthread_t ids[MAX_THREADS];
  for (int i = 0; i < threads; ++i) pthread_create(&ids[i], NULL, run, (void*)(size_t)i);
  for (int i = 0; i < threads; ++i) pthread_join(ids[i], NULL);
  return 0;
}
