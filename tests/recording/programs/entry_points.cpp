// Calls every way to allocate once, between two marks of 1,000,001 and 1,000,002 bytes, so that the test
// finds its rows among those of the libraries' start.
#include <malloc.h>
#include <stdlib.h>

#include <cstddef>
#include <new>

struct alignas(128) Wide {
  char bytes[256];
};

// The compiler must not see that nobody uses the objects.
static void* volatile sink;
static void* use(void* object) {
  sink = object;
  return sink;
}

int main() {
  free(use(malloc(1000001)));
  void* grown = use(malloc(101));
  grown = use(realloc(grown, 1021));
  grown = use(reallocarray(grown, 10, 205));
  free(grown);
  free(use(realloc(nullptr, 103)));
  use(realloc(use(malloc(104)), 0));
  free(use(calloc(5, 21)));
  void* aligned = nullptr;
  if (posix_memalign(&aligned, 64, 106) != 0) return 1;
  free(use(aligned));
  free(use(aligned_alloc(256, 512)));
  free(use(memalign(32, 107)));
  free(use(valloc(108)));
  free(use(pvalloc(109)));
  free(use(malloc(0)));
  free(nullptr);
  use(malloc(~std::size_t{0} / 4));
  use(realloc(nullptr, ~std::size_t{0} / 4));
  void* kept = use(malloc(110));
  use(realloc(kept, ~std::size_t{0} / 4));
  free(kept);
  ::operator delete(use(::operator new(111)));
  ::operator delete[](use(::operator new[](112)));
  ::operator delete(use(::operator new(113, std::nothrow)));
  auto* wide = static_cast<Wide*>(use(new Wide));
  delete wide;
  free(use(malloc(1000002)));
}
