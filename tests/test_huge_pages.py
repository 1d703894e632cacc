"""huge_pages.hpp: an array behaves as std::vector does, across every size at which its memory changes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PROGRAM = r"""
#include <sys/mman.h>
#ifdef WITHOUT_MREMAP
#undef MREMAP_FIXED
#endif

#include "harness/huge_pages.hpp"

#include <cstdio>
#include <random>
#include <vector>

struct Named {  // No default element of these is made of zeroes.
  std::uint64_t size = 0;
  std::uint32_t slot = UINT32_MAX;
  std::uint32_t unused = 7;
  bool operator==(const Named&) const = default;
};
struct Padded {
  std::uint64_t size = 3;
  std::uint8_t kind = 1;
  bool operator==(const Padded&) const = default;
};

template <typename T>
T some(std::uint32_t number) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<T>(number);
  } else {
    T element;
    element.size = number;
    return element;
  }
}

template <typename T>
bool equal(const harness::HugePageVector<T>& found, const std::vector<T>& expected) {
  return found.size() == expected.size() && found.empty() == expected.empty() &&
         std::equal(found.begin(), found.end(), expected.begin());
}

// Sizes lie around those at which memory comes from the system, and at which it fills huge pages.
template <typename T>
int compare(const char* name) {
  constexpr std::size_t kMegabyte = (std::size_t{1} << 20) / sizeof(T);
  std::mt19937 random(1);
  for (int round = 0; round < 40; ++round) {
    harness::HugePageVector<T> found(round % 3);
    std::vector<T> expected(round % 3);
    for (int step = 0; step < 12; ++step) {
      const std::size_t count = random() % (std::size_t{1} << (4 + random() % 7)) * kMegabyte / 64;
      switch (random() % 5) {
        case 0:
          found.resize(count);
          expected.resize(count);
          break;
        case 1:
          found.reserve(count);
          break;
        case 2:
          for (std::size_t i = 0; i < 1000; ++i) {
            found.emplace_back() = some<T>(random.min() + i);
            expected.push_back(some<T>(random.min() + i));
          }
          found.emplace_back();
          expected.emplace_back();
          break;
        case 3: {
          harness::HugePageVector<T> other(count / 4);
          std::vector<T> same(count / 4);
          std::swap(found, other);
          std::swap(expected, same);
          if (!equal(other, same)) return std::printf("%s: what was swapped away differs\n", name);
          break;
        }
        default:
          for (std::size_t i = 0; i < expected.size(); i += 1 + random() % 300) {
            const auto number = static_cast<std::uint32_t>(random());
            found[i] = expected[i] = some<T>(number);
          }
      }
      if (!equal(found, expected)) return std::printf("%s: round %d, step %d\n", name, round, step);
      const bool is_huge = found.size() * sizeof(T) >= std::size_t{1} << 19;
      if (is_huge && reinterpret_cast<std::uintptr_t>(found.data()) % (std::size_t{1} << 21) != 0)
        return std::printf("%s: %zu elements do not begin a huge page\n", name, found.size());
    }
  }
  return 0;
}

int main() {
  return compare<std::uint16_t>("numbers of 2 bytes") + compare<std::uint64_t>("numbers of 8 bytes") +
         compare<Named>("elements with defaults") + compare<Padded>("elements with padding");
}
"""


@pytest.mark.slow
@pytest.mark.parametrize("system", [(), ("-DWITHOUT_MREMAP",)], ids=["pages move", "elements are copied"])
def test_an_array_holds_what_a_vector_would_hold(tmp_path, system):
    (tmp_path / "arrays.cpp").write_text(PROGRAM)
    subprocess.run(
        [
            *(
                "c++",
                *system,
                "-std=c++20",
                "-O1",
                "-g",
                "-fsanitize=address,undefined",
                "-fno-sanitize-recover=all",
            ),
            *(f"-I{ROOT / 'harness' / 'include'}", "-o", tmp_path / "arrays", tmp_path / "arrays.cpp"),
        ],
        check=True,
    )
    done = subprocess.run([tmp_path / "arrays"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
