/* One thread that does little but allocate and free: what recording costs at worst. Argument: events. */
#include <stdint.h>
#include <stdlib.h>

#define SLOTS 65536

static void* slots[SLOTS];

int main(int count, char** arguments) {
  const long events = count > 1 ? atol(arguments[1]) : 1000000;
  uint64_t state = 1;
  for (long event = 0; event < events; event += 2) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    void** slot = &slots[state >> 48];
    free(*slot);
    *slot = malloc(16 + (state >> 40) % 256);
    if (*slot == NULL) return 1;
    *(char*)*slot = 1;
  }
  return 0;
}
