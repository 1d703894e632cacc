// Binds the ideal allocator to Python.
#include "harness/bind.hpp"
#include "ideal.hpp"

NB_MODULE(_ideal, m) { harness::bind_allocator<ideal::Ideal>(m, "Ideal"); }
