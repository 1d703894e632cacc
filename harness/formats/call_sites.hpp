// The call stacks of a foreign trace: modules, addresses in them, and sites, each a run of addresses,
// innermost first. Readers add what their lines say; call_sites.py names the addresses.
//
// Site 0 is the unknown one, without frames. Memory grows with the distinct stacks.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace formats {

class CallSites {
 public:
  // As named_sites() of recording/symbols.py has it: nothing was mapped there.
  static constexpr std::uint32_t kNoModule = UINT32_MAX;

  CallSites() { begins_.push_back(0); }

  std::uint32_t module(std::string_view path) {
    const auto [entry, is_new] =
        number_of_module_.try_emplace(std::string(path), static_cast<std::uint32_t>(modules_.size()));
    if (is_new) modules_.emplace_back(path);
    return entry->second;
  }

  // The number of an address in a module's own terms.
  std::uint32_t address(std::uint32_t module, std::uint64_t address) {
    const auto [entry, is_new] =
        number_of_address_.try_emplace({module, address}, static_cast<std::uint32_t>(addresses_.size()));
    if (is_new) {
      module_of_.push_back(module);
      addresses_.push_back(address);
    }
    return entry->second;
  }

  // A new site with these addresses, by number.
  std::uint32_t add(std::span<const std::uint32_t> stack) {
    begins_.push_back(frames_.size());
    frames_.insert(frames_.end(), stack.begin(), stack.end());
    return static_cast<std::uint32_t>(begins_.size() - 1);
  }

  const std::vector<std::string>& modules() const { return modules_; }
  const std::vector<std::uint32_t>& module_of() const { return module_of_; }
  const std::vector<std::uint64_t>& addresses() const { return addresses_; }
  const std::vector<std::uint32_t>& frames() const { return frames_; }
  // Where each site's frames begin; one more than there are sites.
  std::vector<std::uint64_t> offsets() const {
    std::vector<std::uint64_t> offsets = begins_;
    offsets.push_back(frames_.size());
    return offsets;
  }

 private:
  struct Address {
    std::uint32_t module;
    std::uint64_t address;
    bool operator==(const Address&) const = default;
  };
  struct AddressHash {
    std::size_t operator()(const Address& of) const {
      return std::hash<std::uint64_t>()(of.address * UINT64_C(0x9E3779B97F4A7C15) ^ of.module);
    }
  };

  std::vector<std::string> modules_;
  std::unordered_map<std::string, std::uint32_t> number_of_module_;
  std::vector<std::uint32_t> module_of_;
  std::vector<std::uint64_t> addresses_;
  std::unordered_map<Address, std::uint32_t, AddressHash> number_of_address_;
  std::vector<std::uint32_t> frames_;
  std::vector<std::uint64_t> begins_;
};

}  // namespace formats
