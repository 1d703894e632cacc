// What the targets of readers of text share: a file in blocks of any size through TextReader, its records
// through the book, its rows through the checker of traces, strictly and leniently.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "address_book.hpp"
#include "harness/check.hpp"
#include "lines.hpp"

namespace fuzzed {

inline formats::RecordColumns columns_of(const formats::Records& records) {
  return {.op = records.op,
          .thread = records.thread,
          .address = records.address,
          .old_address = records.old_address,
          .size = records.size,
          .alignment = records.alignment,
          .noscan = records.noscan,
          .time_ns = records.time_ns,
          .site = records.site,
          .place = records.place};
}

// Columns that a reader fills for one record it fills for all.
inline void expect_whole(const formats::Records& records) {
  const std::size_t count = records.op.size();
  for (const std::size_t length : {records.thread.size(), records.address.size(), records.old_address.size(),
                                   records.size.size(), records.place.size()}) {
    if (length != count) std::abort();
  }
  for (const std::size_t length :
       {records.alignment.size(), records.noscan.size(), records.time_ns.size(), records.site.size()}) {
    if (length != 0 && length != count) std::abort();
  }
}

// What the book lets through the checker must, too.
inline void book(formats::AddressBook& book, harness::Checker& checker, const formats::Records& records) {
  expect_whole(records);
  const formats::BookedRows rows = book.rows(columns_of(records));
  static_cast<void>(checker.check({.op = rows.op,
                                   .thread = rows.thread,
                                   .object = rows.object,
                                   .size = rows.size,
                                   .alignment = rows.alignment,
                                   .noscan = rows.noscan,
                                   .time_ns = rows.time_ns}));
}

template <typename Format, formats::Recorder recorder = formats::Recorder::kWhole, typename... Arguments>
void read(const std::uint8_t* data, std::size_t size, Arguments... arguments) {
  if (size == 0) return;
  const std::size_t block_bytes = std::size_t{1} + data[0] * data[0];
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  for (const bool is_lenient : {false, true}) {
    formats::TextReader<Format> reader(is_lenient, arguments...);
    formats::AddressBook address_book(is_lenient, "line", false, recorder);
    harness::Checker checker(0.0, false);
    try {
      for (std::size_t at = 0; at < text.size(); at += block_bytes) {
        // A copy, so that what is read behind it is found.
        const std::string block(text.substr(at, block_bytes));
        book(address_book, checker, reader.read(block));
      }
      book(address_book, checker, reader.end());
    } catch (const formats::TextFault&) {
      if (is_lenient) std::abort();
    } catch (const formats::RecordFault&) {
      if (is_lenient) std::abort();
    }
  }
}

}  // namespace fuzzed
