// What the driver asks of an allocation library beyond malloc: one source file a library answers it.
#pragma once

#include <cstdint>
#include <string_view>

#include "memory.hpp"

namespace driver {

struct Range {
  std::uint64_t address;
  std::uint64_t length;
  std::uint32_t type;
  std::uint32_t unused;
  double fraction;
};
static_assert(sizeof(Range) == 32);

using Text = Array<char>;

inline void append(Text& text, std::string_view part) {
  for (const char letter : part) text.append(letter);
}

void append(Text& text, std::uint64_t number);

// Version, page size and alignment, a line each. Dies where the loaded malloc is not this library's.
void describe(Text& text);

// Carries out a call on the calling thread; false where the library refuses.
bool call(std::string_view name, std::string_view first_argument, std::string_view second_argument);

// Empties the calling thread's cache as the end of the thread would: the main thread cannot end.
void end_main_thread();

// Numbers are lines of a name and a value, or of a list's type, its object size and its bytes.
void read_state(Text& numbers, Array<Range>& ranges, Text& text);

}  // namespace driver
