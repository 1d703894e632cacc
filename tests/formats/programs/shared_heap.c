/* Four threads allocate, reallocate and free objects that they share, and print how often they did.
 *
 * Their sizes are odd numbers from 20,001 to 29,999, by which a trace's reader tells them from the runtime's.
 * All are freed in the end. It calls mtrace(): every_call.cpp.
 */
#include <mcheck.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { THREADS = 4, OBJECTS = 64 };

static pthread_mutex_t locks[OBJECTS];
static void* objects[OBJECTS];
static unsigned long allocations, reallocations, frees;
static unsigned long rounds;

static size_t next_size(unsigned* seed) { return 20001 + 2 * (size_t)(rand_r(seed) % 5000); }

static void* work(void* number) {
  unsigned seed = (unsigned)(size_t)number;
  unsigned long allocated = 0, reallocated = 0, freed = 0;
  for (unsigned long i = 0; i < rounds; ++i) {
    const int at = rand_r(&seed) % OBJECTS;
    pthread_mutex_lock(&locks[at]);
    if (objects[at] == NULL) {
      objects[at] = malloc(next_size(&seed));
      ++allocated;
    } else if (rand_r(&seed) % 3 == 0) {
      objects[at] = realloc(objects[at], next_size(&seed));
      ++reallocated;
    } else {
      free(objects[at]);
      objects[at] = NULL;
      ++freed;
    }
    pthread_mutex_unlock(&locks[at]);
  }
  __atomic_fetch_add(&allocations, allocated, __ATOMIC_RELAXED);
  __atomic_fetch_add(&reallocations, reallocated, __ATOMIC_RELAXED);
  __atomic_fetch_add(&frees, freed, __ATOMIC_RELAXED);
  return NULL;
}

int main(int count, char** arguments) {
  pthread_t threads[THREADS];
  rounds = count > 1 ? strtoul(arguments[1], NULL, 10) : 1000;
  mtrace();
  for (int i = 0; i < OBJECTS; ++i) pthread_mutex_init(&locks[i], NULL);
  for (size_t i = 0; i < THREADS; ++i) pthread_create(&threads[i], NULL, work, (void*)(i + 1));
  for (int i = 0; i < THREADS; ++i) pthread_join(threads[i], NULL);
  for (int i = 0; i < OBJECTS; ++i) {
    if (objects[i] != NULL) ++frees;
    free(objects[i]);
  }
  printf("%lu %lu %lu\n", allocations, reallocations, frees);
  return 0;
}
