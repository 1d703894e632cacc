// Calls every allocation function once, in a fixed order, between two allocations of 1,111,111 bytes that
// mark begin and end. With an argument pvalloc, too, which valgrind does not have.
//
// It calls mtrace(), which does nothing unless libc_malloc_debug.so is preloaded.
#include <malloc.h>
#include <mcheck.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

static constexpr std::size_t kMark = 1111111;
static volatile std::size_t too_large = std::size_t{1} << 62;

int main(int argc, char**) {
  void* const early = std::malloc(33);
  mtrace();
  std::free(std::malloc(kMark));

  void* p = std::malloc(10);
  void* q = std::calloc(2, 8);
  p = std::realloc(p, 5000);
  p = std::realloc(p, 5);
  std::free(q);
  p = std::realloc(p, 0);  // Frees it.
  p = std::realloc(nullptr, 77);
  std::free(p);
  std::free(nullptr);
  if (posix_memalign(&p, 64, 100) == 0) std::free(p);
  std::free(std::aligned_alloc(64, 128));
  std::free(memalign(32, 6));
  std::free(valloc(11));
  if (argc > 1) std::free(pvalloc(12));
  p = reallocarray(nullptr, 3, 7);
  p = reallocarray(p, 300, 7);
  std::free(p);
  std::free(std::malloc(0));
  p = std::malloc(too_large);
  p = std::calloc(too_large, 8);
  p = std::malloc(8);
  if (std::realloc(p, too_large) == nullptr) std::free(p);
  std::free(strdup("sixteen letters"));

  ::operator delete(::operator new(21));
  ::operator delete[](::operator new[](22));
  ::operator delete(::operator new(23, std::nothrow), std::nothrow);
  ::operator delete[](::operator new[](24, std::nothrow), std::nothrow);
  ::operator delete(::operator new(64, std::align_val_t(64)), std::align_val_t(64));
  ::operator delete[](::operator new[](128, std::align_val_t(64)), std::align_val_t(64));
  ::operator delete(::operator new(192, std::align_val_t(64), std::nothrow), std::align_val_t(64),
                    std::nothrow);
  ::operator delete(::operator new(25), std::size_t{25});

  std::free(std::malloc(kMark));
  std::free(early);
  p = std::malloc(333);  // Never freed.
  std::memset(p, 1, 333);
  return 0;
}
