/* Threads that hand objects to each other through shared slots: most frees are on another thread than the
 * allocation, and addresses come again as soon as the allocator has them. Arguments: threads, events a
 * thread. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define SLOTS 4096

static void* slots[SLOTS];
static long events_per_thread;

static void* run(void* argument) {
  uint64_t state = (uint64_t)(uintptr_t)argument * 0x9E3779B97F4A7C15u + 1;
  for (long event = 0; event < events_per_thread; event += 2) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const size_t size = 16 + (state >> 40) % 500;
    void* object;
    if (event % 32 == 0) {
      object = __atomic_exchange_n(&slots[state >> 20 & (SLOTS - 1)], NULL, __ATOMIC_ACQ_REL);
      object = realloc(object, size * 3);
    } else {
      object = malloc(size);
    }
    if (object == NULL) return NULL;
    *(char*)object = 1;
    free(__atomic_exchange_n(&slots[state >> 52], object, __ATOMIC_ACQ_REL));
  }
  return NULL;
}

int main(int count, char** arguments) {
  const int threads = count > 1 ? atoi(arguments[1]) : 4;
  events_per_thread = count > 2 ? atol(arguments[2]) : 100000;
  pthread_t ids[64];
  for (int i = 0; i < threads; ++i) pthread_create(&ids[i], NULL, run, (void*)(uintptr_t)(i + 1));
  for (int i = 0; i < threads; ++i) pthread_join(ids[i], NULL);
  for (int i = 0; i < SLOTS; ++i) free(slots[i]);
  return 0;
}
