// The sites of a trace, made of the stacks and modules that a raw file holds: equal stacks are one site,
// whatever numbers the program gave them and wherever its modules were loaded.
//
// Site 0 is the unknown one, without frames. convert.hpp feeds chains; recorder.py asks for the result.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <map>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "raw.h"

namespace recording {

struct Module {
  std::string path;
  std::string build_id;  // Bytes.
  bool operator==(const Module&) const = default;
};

// An address in a module's own terms.
struct ModuleAddress {
  std::uint32_t module;  // kNoModule: nothing was mapped there, and this is the process's own address.
  std::uint64_t address;
  bool operator==(const ModuleAddress&) const = default;
};

class StackSites {
 public:
  static constexpr std::uint32_t kNoModule = UINT32_MAX;

  StackSites() { begin_of_site_.push_back(0); }

  // The site of a stack's number; 0 for a number that no whole chain defined.
  std::uint32_t site_of(std::uint32_t number) const {
    return number < site_of_number_.size() ? site_of_number_[number] : 0;
  }

  // The first record of a chain, of RAW_STACK or RAW_MODULE, and those that continue it.
  void begin_chain(const std::uint64_t* words) {
    chain_op_ = static_cast<std::uint32_t>(words[0] & 0xFF);
    chain_bytes_ = words[0] >> 8 & 0xFFFFFF;
    chain_number_ = static_cast<std::uint32_t>(words[0] >> 32);
    chain_.clear();
    is_in_chain_ = true;
    go_on(words);
  }
  void continue_chain(const std::uint64_t* words) {
    if (is_in_chain_) go_on(words);
  }
  // A writer was killed within a chain; nothing refers to what it began.
  void drop_chain() { is_in_chain_ = false; }

  const std::vector<Module>& modules() const { return modules_; }
  // Distinct addresses, the sites' frames as indexes into them, and where each site's begin; one more than
  // there are sites.
  const std::vector<ModuleAddress>& addresses() const { return addresses_; }
  const std::vector<std::uint32_t>& frames() const { return frames_; }
  std::vector<std::uint64_t> offsets() const {
    std::vector<std::uint64_t> offsets = begin_of_site_;
    offsets.push_back(frames_.size());
    return offsets;
  }

 private:
  struct Mapped {
    std::uint64_t end;
    std::uint64_t bias;
    std::uint32_t module;
  };
  struct Recent {
    std::uint64_t address = 0;  // No code stands there.
    std::uint32_t number = 0;
  };
  static constexpr int kRecentBits = 12;
  struct AddressHash {
    std::size_t operator()(const ModuleAddress& of) const {
      return static_cast<std::size_t>((of.address ^ static_cast<std::uint64_t>(of.module) << 48) *
                                      UINT64_C(0x9E3779B97F4A7C15));
    }
  };

  void go_on(const std::uint64_t* words) {
    chain_.append(reinterpret_cast<const char*>(words + 1), RAW_CHAIN_BYTES);
    if (chain_.size() < chain_bytes_) return;
    is_in_chain_ = false;
    chain_.resize(chain_bytes_);
    if (chain_op_ == RAW_MODULE) {
      add_module();
    } else {
      add_stack();
    }
  }

  void add_module() {
    raw_module raw;
    if (chain_.size() < sizeof raw) return;
    std::memcpy(&raw, chain_.data(), sizeof raw);
    const std::size_t id_bytes = std::min<std::size_t>(raw.build_id_bytes, RAW_BUILD_ID_BYTES);
    Module module{chain_.substr(sizeof raw),
                  std::string(reinterpret_cast<const char*>(raw.build_id), id_bytes)};
    const auto known = std::find(modules_.begin(), modules_.end(), module);
    const auto number = static_cast<std::uint32_t>(known - modules_.begin());
    if (known == modules_.end()) modules_.push_back(std::move(module));
    recent_.fill({});
    // What stood there before was unloaded.
    auto next = mapped_.lower_bound(raw.begin);
    if (next != mapped_.begin() && std::prev(next)->second.end > raw.begin) --next;
    while (next != mapped_.end() && next->first < raw.end) next = mapped_.erase(next);
    mapped_[raw.begin] = {raw.end, raw.bias, number};
  }

  void add_stack() {
    std::vector<std::uint32_t>& stack = stack_;
    stack.resize(chain_.size() / sizeof(std::uint64_t));
    for (std::size_t i = 0; i < stack.size(); ++i) {
      std::uint64_t address;
      std::memcpy(&address, chain_.data() + i * sizeof address, sizeof address);
      stack[i] = number_of(address);
    }
    if (chain_number_ >= site_of_number_.size()) site_of_number_.resize(chain_number_ + 1);
    site_of_number_[chain_number_] = site_with(stack);
  }

  // Most frames of a stack were on the ones before it.
  std::uint32_t number_of(std::uint64_t address) {
    Recent& recent = recent_[(address * UINT64_C(0x9E3779B97F4A7C15)) >> (64 - kRecentBits)];
    if (recent.address != address) recent = {address, looked_up(address)};
    return recent.number;
  }

  std::uint32_t looked_up(std::uint64_t address) {
    ModuleAddress found{kNoModule, address};
    auto next = mapped_.upper_bound(address);
    if (next != mapped_.begin()) {
      const Mapped& mapped = std::prev(next)->second;
      if (address < mapped.end) found = {mapped.module, address - mapped.bias};
    }
    const auto [entry, is_new] =
        number_of_address_.try_emplace(found, static_cast<std::uint32_t>(addresses_.size()));
    if (is_new) addresses_.push_back(found);
    return entry->second;
  }

  std::uint32_t site_with(std::span<const std::uint32_t> stack) {
    std::uint64_t hash = stack.size();
    for (const std::uint32_t frame : stack) {
      hash = (hash ^ frame) * UINT64_C(0x9E3779B97F4A7C15);
      hash ^= hash >> 32;
    }
    const auto [first, last] = sites_of_hash_.equal_range(hash);
    for (auto at = first; at != last; ++at) {
      const std::span<const std::uint32_t> other = frames_of(at->second);
      if (std::equal(other.begin(), other.end(), stack.begin(), stack.end())) return at->second;
    }
    begin_of_site_.push_back(frames_.size());
    frames_.insert(frames_.end(), stack.begin(), stack.end());
    const auto site = static_cast<std::uint32_t>(begin_of_site_.size() - 1);
    sites_of_hash_.emplace(hash, site);
    return site;
  }

  std::span<const std::uint32_t> frames_of(std::uint32_t site) const {
    const std::uint64_t end = site + 1 < begin_of_site_.size() ? begin_of_site_[site + 1] : frames_.size();
    return std::span(frames_).subspan(begin_of_site_[site], end - begin_of_site_[site]);
  }

  std::uint32_t chain_op_ = 0;
  std::uint64_t chain_bytes_ = 0;
  std::uint32_t chain_number_ = 0;
  std::string chain_;
  std::vector<std::uint32_t> stack_;  // Of the chain; kept for its memory.
  bool is_in_chain_ = false;

  std::vector<Module> modules_;
  std::map<std::uint64_t, Mapped> mapped_;  // By begin; they do not overlap.
  std::array<Recent, std::size_t{1} << kRecentBits> recent_;
  std::vector<ModuleAddress> addresses_;
  std::unordered_map<ModuleAddress, std::uint32_t, AddressHash> number_of_address_;
  std::vector<std::uint32_t> frames_;
  std::vector<std::uint64_t> begin_of_site_;
  std::unordered_multimap<std::uint64_t, std::uint32_t> sites_of_hash_;
  std::vector<std::uint32_t> site_of_number_;  // By the program's number.
};

// Where an address stands for several frames, because functions were inlined there: each site's run of
// addresses becomes one of frames. Address n has frames[begins[n], begins[n + 1]).
struct ExpandedStacks {
  std::vector<std::int32_t> frames;
  std::vector<std::int64_t> offsets;
};
inline ExpandedStacks expand(std::span<const std::uint32_t> addresses, std::span<const std::uint64_t> offsets,
                             std::span<const std::int32_t> frames, std::span<const std::int64_t> begins) {
  ExpandedStacks expanded;
  expanded.frames.reserve(addresses.size() * 2);
  expanded.offsets.reserve(offsets.size());
  std::size_t next = 0;
  for (const std::uint64_t offset : offsets) {
    for (; next < offset; ++next) {
      const std::uint32_t address = addresses[next];
      const auto first = static_cast<std::size_t>(begins[address]);
      const auto last = static_cast<std::size_t>(begins[address + 1]);
      for (std::size_t frame = first; frame < last; ++frame) expanded.frames.push_back(frames[frame]);
    }
    expanded.offsets.push_back(static_cast<std::int64_t>(expanded.frames.size()));
  }
  return expanded;
}

}  // namespace recording
