// Lines of a raw file of heaptrack: one letter and hexadecimal numbers.
//
// Format: heaptrack 1.0 to 1.5, src/track/libheaptrack.cpp. `m` tells where modules stand, `t` adds a node to
// the tree of call stacks, `+` and `-` are allocations and frees, `c` is the time. A realloc is a free and an
// allocation, told once it is done; one to no bytes is not told at all.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "call_sites.hpp"
#include "lines.hpp"

namespace formats {

class HeaptrackLines {
 public:
  const CallSites& sites() const { return sites_; }

  void line(std::string_view text, Records& records) {
    Fields fields(text);
    if (fields.empty()) return;
    if (fields.take("+ ")) {
      const std::uint64_t size = fields.hexadecimal();
      const std::uint32_t site = site_of(fields.hexadecimal());
      const std::uint64_t address = fields.hexadecimal();
      expect_end(fields);
      add(Op::kAlloc, address, size, site, records);
    } else if (fields.take("- ")) {
      const std::uint64_t address = fields.hexadecimal();
      expect_end(fields);
      add(Op::kFree, address, 0, 0, records);
    } else if (fields.take("t ")) {
      add_node(fields);
    } else if (fields.take("c ")) {
      tell_time(fields.hexadecimal());
    } else if (fields.take("m ")) {
      add_module(fields);
    } else if (fields.take("x ")) {
      program_ = sized_text(fields);
    } else if (fields.take("v ")) {
      static_cast<void>(fields.hexadecimal());
      // Version 1 was written without this number.
      has_sized_texts_ = !fields.empty() && fields.hexadecimal() >= kVersionOfSizedTexts;
    } else if (!is_known(fields.rest())) {
      throw BadLine("expected a line of heaptrack's raw files: +, -, t, m, c, ...");
    }
  }

 private:
  struct Node {
    std::uint32_t address;  // Its number in sites_.
    std::uint32_t parent;   // Its place in nodes_ plus 1; 0 for the outermost.
    std::uint32_t site;     // 0: none yet.
  };
  struct Mapped {
    std::uint64_t begin;
    std::uint64_t end;
    std::uint64_t base;
    std::uint32_t module;
  };

  static constexpr std::uint64_t kVersionOfSizedTexts = 3;
  static constexpr std::size_t kDeepestStack = 64;  // src/track/trace.h: MAX_SIZE.
  static constexpr std::uint64_t kMaximumMs = INT64_MAX / 1'000'000;

  // Command line, page size, resident pages, suppressions, an attached recorder, remarks.
  static bool is_known(std::string_view line) {
    return std::string_view("XIRSA#").find(line.front()) != std::string_view::npos;
  }

  static void expect_end(const Fields& fields) {
    if (!fields.empty()) throw BadLine("expected the end of the line");
  }

  void add(Op op, std::uint64_t address, std::uint64_t size, std::uint32_t site, Records& records) const {
    records.add(op, 0, address, 0, size);
    records.time_ns.push_back(time_ns_);
    records.site.push_back(site);
  }

  void tell_time(std::uint64_t time_ms) {
    if (time_ms > kMaximumMs) throw BadLine("the time is too large");
    time_ns_ = static_cast<std::int64_t>(time_ms) * 1'000'000;
  }

  std::string sized_text(Fields& fields) const {
    if (!has_sized_texts_) return std::string(fields.word());
    const std::uint64_t length = fields.hexadecimal();
    return std::string(fields.characters(length));
  }

  void add_module(Fields& fields) {
    const std::string name = sized_text(fields);
    if (name == "-") {
      mapped_.clear();
      return;
    }
    const std::uint32_t module = sites_.module(name == "x" ? program_ : name);
    const std::uint64_t base = fields.hexadecimal();
    while (!fields.empty()) {
      const std::uint64_t begin = base + fields.hexadecimal();
      mapped_.push_back({begin, begin + fields.hexadecimal(), base, module});
    }
    is_sorted_ = false;
  }

  void add_node(Fields& fields) {
    const std::uint64_t address = fields.hexadecimal();
    const std::uint64_t parent = fields.hexadecimal();
    expect_end(fields);
    if (parent > nodes_.size()) throw BadLine("expected the number of a t line before this one");
    nodes_.push_back({number_of(address), static_cast<std::uint32_t>(parent), 0});
  }

  std::uint32_t number_of(std::uint64_t address) {
    if (!is_sorted_) {
      std::ranges::sort(mapped_, {}, &Mapped::begin);
      is_sorted_ = true;
    }
    const auto next = std::ranges::upper_bound(mapped_, address, {}, &Mapped::begin);
    if (next == mapped_.begin() || address >= (next - 1)->end) {
      return sites_.address(CallSites::kNoModule, address);
    }
    const Mapped& found = *(next - 1);
    return sites_.address(found.module, address - found.base);
  }

  // The site of a node, which is its innermost frame.
  std::uint32_t site_of(std::uint64_t node) {
    if (node == 0) return 0;
    if (node > nodes_.size()) throw BadLine("expected the number of a t line before this one");
    std::uint32_t& site = nodes_[node - 1].site;
    if (site != 0) return site;
    stack_.clear();
    for (std::uint64_t at = node; at != 0 && stack_.size() < kDeepestStack; at = nodes_[at - 1].parent) {
      stack_.push_back(nodes_[at - 1].address);
    }
    return site = sites_.add(stack_);
  }

  CallSites sites_;
  std::vector<Node> nodes_;
  std::vector<Mapped> mapped_;
  bool is_sorted_ = true;
  bool has_sized_texts_ = false;
  std::string program_;
  std::vector<std::uint32_t> stack_;  // Of the site at hand; kept for its memory.
  std::int64_t time_ns_ = 0;
};

}  // namespace formats
