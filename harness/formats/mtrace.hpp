// Lines that glibc's mtrace() writes: `@ MODULE:(FUNCTION+OFFSET)[ADDRESS] + POINTER SIZE`, and so on.
//
// Format: glibc, malloc/mtrace-impl.c. `+` is an allocation, `-` a free, `<` and `>` the two halves of a
// realloc and `!` one that failed. What stands before the sign says who called; since 2.28 the address is the
// module's own. Since 2.34 a line is written once the call is done, a free's, too.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "call_sites.hpp"
#include "lines.hpp"

namespace formats {

class MtraceLines {
 public:
  const CallSites& sites() const { return sites_; }

  void line(std::string_view text, Records& records) {
    if (text.empty() || text.starts_with("= ")) return;  // Start and End.
    std::uint32_t site = 0;
    if (text.starts_with("@ ")) {
      const std::size_t end = text.rfind("] ");
      if (end == std::string_view::npos) throw BadLine("expected [ADDRESS] and a sign behind it");
      site = site_of(text.substr(2, end - 1));
      text.remove_prefix(end + 2);
    }
    Fields fields(text);
    if (moved_ && !text.starts_with('>')) {
      moved_.reset();
      throw BadLine("expected >, the other half of the realloc in the line before");
    }
    if (fields.take("+ ")) {
      const std::uint64_t address = fields.pointer();
      add(Op::kAlloc, address, 0, fields.either(), site, records);
    } else if (fields.take("- ")) {
      add(Op::kFree, fields.pointer(), 0, 0, 0, records);
    } else if (fields.take("< ")) {
      moved_ = fields.pointer();
    } else if (fields.take("> ")) {
      if (!moved_) throw BadLine("expected < in the line before, the other half of the realloc");
      const std::uint64_t old_address = *moved_;
      moved_.reset();
      const std::uint64_t address = fields.pointer();
      add(Op::kRealloc, address, old_address, fields.either(), site, records);
    } else if (fields.take("! ")) {
      const std::uint64_t old_address = fields.pointer();
      add(Op::kRealloc, 0, old_address, fields.either(), site, records);
    } else {
      throw BadLine("expected +, -, <, > or !");
    }
    if (!fields.empty()) throw BadLine("expected the end of the line");
  }

 private:
  struct TextHash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };

  void add(Op op, std::uint64_t address, std::uint64_t old_address, std::uint64_t size, std::uint32_t site,
           Records& records) const {
    records.add(op, 0, address, old_address, size);
    records.site.push_back(site);
  }

  // The site of `MODULE:(FUNCTION+OFFSET)[ADDRESS]`; module and function may be missing.
  std::uint32_t site_of(std::string_view caller) {
    if (const auto known = site_of_caller_.find(caller); known != site_of_caller_.end()) return known->second;
    const std::size_t bracket = caller.rfind('[');
    if (bracket == std::string_view::npos) throw BadLine("expected [ADDRESS] of the caller");
    Fields fields(caller.substr(bracket + 1));
    const std::uint64_t return_address = fields.hexadecimal();
    const std::string_view before = caller.substr(0, bracket);
    const std::size_t colon = before.rfind(before.ends_with(')') ? ":(" : ":");
    const std::uint32_t module =
        colon == std::string_view::npos ? CallSites::kNoModule : sites_.module(before.substr(0, colon));
    // The call stands before where it returns to.
    const std::uint32_t address = sites_.address(module, return_address - 1);
    const std::uint32_t site = sites_.add({&address, 1});
    site_of_caller_.emplace(caller, site);
    return site;
  }

  CallSites sites_;
  std::unordered_map<std::string, std::uint32_t, TextHash, std::equal_to<>> site_of_caller_;
  std::optional<std::uint64_t> moved_;  // What a realloc was given, until its other half comes.
};

}  // namespace formats
