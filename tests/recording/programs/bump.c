/* An allocator whose every call can be interrupted and called again: it only ever moves one atomic mark. */
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#define HEAP_BYTES ((size_t)1 << 36)

static char* heap;
static size_t used;

__attribute__((constructor(101))) static void reserve(void) {
  if (heap == NULL) {
    heap = mmap(NULL, HEAP_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  }
}

/* Not malloc itself: that name means the recorder's here. */
static void* take(size_t size) {
  reserve();
  size_t* block = (size_t*)(heap + __atomic_fetch_add(&used, (size + 31) & ~(size_t)15, __ATOMIC_RELAXED));
  *block = size;
  return block + 2;
}

void* malloc(size_t size) { return take(size); }

void* calloc(size_t count, size_t size) { return take(count * size); }

void free(void* address) { (void)address; }

void* realloc(void* old, size_t size) {
  void* moved = take(size);
  if (old != NULL) {
    const size_t old_size = ((size_t*)old)[-2];
    memcpy(moved, old, old_size < size ? old_size : size);
  }
  return moved;
}
