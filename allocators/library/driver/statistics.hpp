// What the driver asks of an allocation library beyond malloc. Two source files answer it, one a program:
// tcmalloc.cpp all that models are held against, measured.cpp what rows of a table need of any library.
#pragma once

#include <pthread.h>

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

// What the parent must know first, a line each.
void describe(Text& text);

// Bytes that a block takes of the heap, 0 where nobody asks.
std::uint64_t held_bytes(void* block);

// Chooses the stack of a thread that is about to be started by the calling one; afterwards it has been.
void before_thread(std::uint16_t number, pthread_attr_t& attributes);
void after_thread();

// Carries out a call on the calling thread; false where the library refuses.
bool call(std::string_view name, std::string_view first_argument, std::string_view second_argument);

// Empties the calling thread's cache as the end of the thread would: the main thread cannot end.
void end_main_thread();

// Numbers are lines of a name and a value, or of a list's type, its object size and its bytes. `live_bytes`
// is the sum of held_bytes() of the trace's live objects.
void read_state(std::uint64_t live_bytes, Text& numbers, Array<Range>& ranges, Text& text);

}  // namespace driver
