// Allocations whose lines and functions the tests know by heart: each asks for as many bytes as nothing else
// here does. Compiled with and without debug information, stripped, at every optimisation.
#include <cstdlib>
#include <string>
#include <vector>

static void* volatile sink;

__attribute__((noinline)) void* direct() {
  return sink = std::malloc(10001);  // LINE direct
}

static inline void* inlined() { return std::malloc(10002); }  // LINE inlined

__attribute__((noinline)) void outer() {
  sink = inlined();  // LINE outer
}

namespace shop {
struct Basket {
  std::vector<char> goods;
  __attribute__((noinline)) void fill(std::size_t bytes) {
    goods.reserve(bytes);  // LINE fill
  }
};
}  // namespace shop

__attribute__((noinline)) void grow() {
  void* small = std::malloc(10004);
  sink = std::realloc(small, 20004);  // LINE grow
}

__attribute__((noinline)) void dive(int depth) {
  if (depth == 0) {
    sink = std::malloc(10005);  // LINE bottom
  } else {
    dive(depth - 1);  // LINE dive
  }
  asm volatile("");  // No tail call.
}

// The compiler aligns this frame anew and finds its caller through a saved address.
__attribute__((noinline)) void aligned_anew(int count) {
  alignas(64) volatile char buffer[64] = {};
  char* variable = static_cast<char*>(__builtin_alloca(static_cast<std::size_t>(count)));
  variable[0] = buffer[0];
  asm volatile("" : : "r"(variable) : "memory");
  sink = std::malloc(10006);  // LINE aligned
}

__attribute__((noinline)) void passed_on(std::size_t bytes) {
  sink = std::malloc(bytes);
  asm volatile("");
}

// From the second call on all that differs is the return address of the outer frame.
__attribute__((noinline)) void twice() {
  passed_on(10007);  // LINE first
  passed_on(10008);  // LINE second
  asm volatile("");
}

int main(int count, char** arguments) {
  direct();
  outer();
  shop::Basket basket;
  basket.fill(10003);
  grow();
  twice();
  dive(count > 1 ? std::atoi(arguments[1]) : 3);
  aligned_anew(count * 100);
  return 0;
}
