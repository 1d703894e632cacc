// Carries out allocations and frees with the malloc that it is linked with, and touches no memory of theirs.
//
// Reads pairs of 32-bit words from a file: the object's slot, and its size or, for a free, all ones. Says
// that it is ready, waits for a line, carries the events out, once, and says that it is done: whoever starts
// it measures the events alone, and can hold their time beside that of anything else.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

struct Event {
  std::uint32_t slot;
  std::uint32_t size;
};

constexpr std::uint32_t kFree = ~std::uint32_t{0};

void say(const char* line) {
  std::puts(line);
  std::fflush(stdout);
}

int main(int argc, char** argv) {
  std::FILE* const file = argc == 2 ? std::fopen(argv[1], "rb") : nullptr;
  if (file == nullptr) return 2;
  std::fseek(file, 0, SEEK_END);
  std::vector<Event> events(static_cast<std::size_t>(std::ftell(file)) / sizeof(Event));
  std::rewind(file);
  if (std::fread(events.data(), sizeof(Event), events.size(), file) != events.size()) return 2;
  std::fclose(file);
  std::uint32_t slots = 0;
  for (const Event& event : events) slots = event.slot >= slots ? event.slot + 1 : slots;
  std::vector<void*> objects(slots);

  say("ready");
  if (std::getchar() == EOF) return 2;
  for (const Event& event : events) {
    if (event.size == kFree) {
      std::free(objects[event.slot]);
    } else {
      objects[event.slot] = std::malloc(event.size);
    }
  }
  say("done");
}
