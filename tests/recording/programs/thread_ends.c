/* Threads whose key destructors allocate and free, in every round that the library allows them, with keys
 * made before and after the recorder's own. Argument: threads, one after the other. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define KEYS 40

static pthread_key_t keys[KEYS];

static void destroy(void* object) {
  free(object);
  /* Set again: destructors run up to PTHREAD_DESTRUCTOR_ITERATIONS times. */
  for (int i = 0; i < KEYS; i += 13) {
    if (pthread_getspecific(keys[i]) == NULL) pthread_setspecific(keys[i], malloc(40));
  }
}

static void* run(void* unused) {
  for (int i = 0; i < KEYS; ++i) pthread_setspecific(keys[i], malloc(24));
  strerror(12345); /* libc keeps this text and frees it when the thread is gone. */
  return unused;
}

int main(int count, char** arguments) {
  const int threads = count > 1 ? atoi(arguments[1]) : 10;
  for (int i = 0; i < KEYS; ++i) pthread_key_create(&keys[i], destroy);
  for (int i = 0; i < threads; ++i) {
    pthread_t id;
    if (pthread_create(&id, NULL, run, NULL) != 0) return 1;
    pthread_join(id, NULL);
  }
  return 0;
}
