// The live objects of a synthetic trace: what is born next to them, and which of them dies.
//
// Their number follows an immigration-death process (the M/M/infinity queue): in steady state the next event
// is an allocation with probability live / (live + objects now), otherwise a death. Where kinds of objects
// differ in how long they live, each kind follows such a process of its own. generator.hpp makes rows of it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "random.hpp"

namespace harness {

struct LiveObject {
  std::uint32_t slot;
  std::uint16_t owner;
  std::uint16_t kind;
};

// Who dies next: any object alike, the oldest, the youngest, or each kind at a rate of its own.
enum class Order : std::uint8_t { kAny, kOldest, kYoungest, kByKind };

class Population {
 public:
  std::size_t size() const { return size_; }

  // Goes on with other rules. `rates` holds, for each kind, an object's deaths an allocation; `inherited` is
  // the kind of the objects that are alive now, unless they keep theirs.
  void begin(Order order, std::uint64_t live, std::vector<double> rates,
             std::optional<std::uint16_t> inherited) {
    std::vector<Group> before = std::exchange(groups_, {});
    forget_dead_in_front(before.front().objects);
    order_ = order;
    live_ = live;
    rates_ = std::move(rates);
    group_of_kind_.assign(rates_.size(), 0);
    groups_.resize(1);
    if (order == Order::kByKind) group_kinds();
    size_ = 0;
    total_rate_ = 0;
    for (const Group& group : before) {
      for (LiveObject object : group.objects) {
        if (inherited) object.kind = *inherited;
        add(object);
      }
    }
  }

  void add(LiveObject object) {
    Group& group = groups_[order_ == Order::kByKind ? group_of_kind_[object.kind] : 0];
    group.objects.push_back(object);
    total_rate_ += group.rate;
    ++size_;
  }

  // Draws the next event: the object that dies, or nothing for an allocation.
  std::optional<LiveObject> next_death(Random& random) {
    if (order_ == Order::kByKind) return next_death_by_kind(random);
    const std::uint64_t drawn = random.below(live_ + size_);
    if (drawn < live_) return std::nullopt;
    --size_;
    std::vector<LiveObject>& objects = groups_[0].objects;
    if (order_ == Order::kOldest) return take_oldest(objects);
    return take(objects, order_ == Order::kYoungest ? size_ : drawn - live_);
  }

 private:
  // Kinds whose rates lie within a factor of 2. A death is drawn at the greatest of them and then, by its own
  // kind's rate, may not take place: exact, and never more than every second draw in vain.
  struct Group {
    double rate = 0;
    std::vector<LiveObject> objects;
  };

  void group_kinds() {
    std::vector<int> exponents;
    for (const double rate : rates_) exponents.push_back(std::ilogb(rate));
    std::vector<int> sorted = exponents;
    std::sort(sorted.rbegin(), sorted.rend());
    sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
    groups_.resize(sorted.size());
    for (std::size_t kind = 0; kind < rates_.size(); ++kind) {
      const auto found = std::find(sorted.begin(), sorted.end(), exponents[kind]);
      group_of_kind_[kind] = static_cast<std::uint16_t>(found - sorted.begin());
      Group& group = groups_[group_of_kind_[kind]];
      group.rate = std::max(group.rate, rates_[kind]);
    }
  }

  std::optional<LiveObject> next_death_by_kind(Random& random) {
    while (true) {
      double drawn = random.unit() * (1 + total_rate_) - 1;
      if (drawn <= 0) return std::nullopt;
      for (Group& group : groups_) {
        const double rate = group.rate * static_cast<double>(group.objects.size());
        if (drawn > rate) {
          drawn -= rate;
          continue;
        }
        const std::uint64_t index = random.below(group.objects.size());
        if (random.unit() * group.rate > rates_[group.objects[index].kind]) break;
        total_rate_ -= group.rate;
        --size_;
        return take(group.objects, index);
      }
      // Nobody died, or rounding left a rest behind the last group: the next draw.
    }
  }

  static LiveObject take(std::vector<LiveObject>& objects, std::size_t index) {
    const LiveObject object = objects[index];
    objects[index] = objects.back();
    objects.pop_back();
    return object;
  }

  LiveObject take_oldest(std::vector<LiveObject>& objects) {
    const LiveObject object = objects[head_++];
    // The dead in front go once they are half of all, so that an event costs the same however many live.
    if (head_ * 2 >= objects.size()) forget_dead_in_front(objects);
    return object;
  }

  void forget_dead_in_front(std::vector<LiveObject>& objects) {
    objects.erase(objects.begin(), objects.begin() + static_cast<std::ptrdiff_t>(head_));
    head_ = 0;
  }

  Order order_ = Order::kAny;
  std::uint64_t live_ = 1;
  std::vector<double> rates_;
  std::vector<std::uint16_t> group_of_kind_;
  std::vector<Group> groups_ = std::vector<Group>(1);
  std::size_t head_ = 0;  // The dead in front of the oldest object.
  std::size_t size_ = 0;
  double total_rate_ = 0;
};

}  // namespace harness
