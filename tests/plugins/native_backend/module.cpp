#include "harness/bind.hpp"
#include "slab.hpp"

NB_MODULE(_slab, m) {
  harness::bind_allocator<slab::Slab, std::uint64_t>(m, "Slab", nanobind::arg("slab_bytes") = 65536);
}
