/* A library that loads.c loads: asks for BYTES in a function whose name is made of NAME. */
#include <stdlib.h>

#define JOIN(a, b) a##b
#define FUNCTION(name) JOIN(allocate_in_, name)

void* volatile sink;

void FUNCTION(NAME)(void);
__attribute__((noinline)) void FUNCTION(NAME)(void) {
  sink = malloc(BYTES);
  free(sink);
}

void enter(void);
void enter(void) {
  FUNCTION(NAME)();
  __asm__ volatile("");
}
