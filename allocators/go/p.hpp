// A P of Go's scheduler: what it keeps for itself, so that allocation seldom takes a lock.
//
// Above mcache, tiny allocator and page allocator, whose parts it holds, below the collector, which flushes
// them.
#pragma once

#include <cstdint>

#include "mcache.hpp"
#include "page_alloc.hpp"
#include "tiny.hpp"

namespace go {

struct P {
  PageCache page_cache;
  Mcache mcache;
  Tiny tiny;
  std::int64_t assist_bytes = 0;  // What may be allocated before marking must be helped (gcAssistBytes).
};

}  // namespace go
