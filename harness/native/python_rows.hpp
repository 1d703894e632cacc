// A batch's events as Python's own objects, for the loop in harness/loop.py.
//
// Filled in place: to call the class of a Request for every row would take longer than all else that the loop
// does.
#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>
#include <stdexcept>
#include <utility>
#include <vector>

#include "harness/replay.hpp"

namespace harness {

class PythonRows {
 public:
  // `request` is harness.allocator.Request or another class of five-tuples. The events are borrowed.
  PythonRows(nanobind::type_object request, const Events& events)
      : request_(std::move(request)), events_(events) {
    if (!PyType_IsSubtype(request_type(), &PyTuple_Type)) {
      throw std::invalid_argument("a request is a tuple");
    }
  }

  // Three lists for the rows from `begin` up to `end`, not included: op, slot, and what the allocator is
  // handed: the Request of a row that allocates, the thread of any other. As in replay.hpp, what the loop
  // keeps by slot and will look at is on its way from memory meanwhile.
  nanobind::tuple part(std::size_t begin, std::size_t end, const nanobind::list& blocks) const {
    if (begin > end || end > events_.op.size()) throw std::out_of_range("no such rows in the batch");
    nanobind::list ops = list_of(end - begin);
    nanobind::list slots = list_of(end - begin);
    nanobind::list handed = list_of(end - begin);
    for (std::size_t i = begin; i < end; ++i) {
      const auto index = static_cast<Py_ssize_t>(i - begin);
      if (events_.slot[i] < blocks.size()) __builtin_prefetch(PyList_GET_ITEM(blocks.ptr(), events_.slot[i]));
      PyList_SET_ITEM(ops.ptr(), index, made(PyLong_FromUnsignedLong(events_.op[i])));
      PyList_SET_ITEM(slots.ptr(), index, made(PyLong_FromUnsignedLong(events_.slot[i])));
      PyList_SET_ITEM(handed.ptr(), index,
                      allocates(i) ? request(i) : made(PyLong_FromUnsignedLong(events_.thread[i])));
    }
    return nanobind::make_tuple(ops, slots, handed);
  }

 private:
  PyTypeObject* request_type() const { return reinterpret_cast<PyTypeObject*>(request_.ptr()); }

  bool allocates(std::size_t i) const {
    const auto op = static_cast<Op>(events_.op[i]);
    return op == Op::kAlloc || op == Op::kCalloc || op == Op::kRealloc;
  }

  PyObject* request(std::size_t i) const {
    nanobind::object request = nanobind::steal(made(request_type()->tp_alloc(request_type(), 5)));
    PyTuple_SET_ITEM(request.ptr(), 0, size(events_.size[i]));
    PyTuple_SET_ITEM(request.ptr(), 1, made(PyLong_FromUnsignedLong(events_.alignment[i])));
    PyTuple_SET_ITEM(request.ptr(), 2, made(PyBool_FromLong(events_.noscan[i])));
    PyTuple_SET_ITEM(request.ptr(), 3, made(PyBool_FromLong(static_cast<Op>(events_.op[i]) == Op::kCalloc)));
    PyTuple_SET_ITEM(request.ptr(), 4, made(PyLong_FromUnsignedLong(events_.thread[i])));
    return request.release().ptr();
  }

  // One object for all of a size, as most are asked for again and again: a program's many live blocks, which
  // often remember their sizes, would otherwise lie scattered over memory that no cache holds.
  PyObject* size(std::uint64_t bytes) const {
    if (bytes >= sizes_.size()) return made(PyLong_FromUnsignedLongLong(bytes));
    nanobind::object& known = sizes_[bytes];
    if (!known.is_valid()) known = nanobind::steal(made(PyLong_FromUnsignedLongLong(bytes)));
    return nanobind::object(known).release().ptr();
  }

  static nanobind::list list_of(std::size_t count) {
    return nanobind::steal<nanobind::list>(made(PyList_New(static_cast<Py_ssize_t>(count))));
  }

  // Python says by a null pointer that there is no memory left.
  static PyObject* made(PyObject* object) {
    if (object == nullptr) nanobind::raise_python_error();
    return object;
  }

  nanobind::type_object request_;
  Events events_;
  mutable std::vector<nanobind::object> sizes_ = std::vector<nanobind::object>(4096);
};

}  // namespace harness
