// An allocator in plain Python, for the loop in include/harness/replay.hpp to drive like any other.
//
// Called without a detour through Python's own loop, which has to look at every event to know what to call.
// What an event needs of Python's objects is made once where that is possible: method, Request, numbers. The
// interpreter must be held whenever one of these functions is called.
#pragma once

#include <nanobind/nanobind.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "harness/replay.hpp"

namespace harness {

class PythonAllocator {
 public:
  // A reference that is owned by whoever holds the block; null where Python said None.
  struct Block {
    PyObject* object = nullptr;
    explicit operator bool() const { return object != nullptr; }
  };

  // `request` is harness.allocator.Request or another class of five-tuples. Of an allocator that does not
  // keep both numbers its footprint says them, after every event.
  PythonAllocator(nanobind::object allocator, nanobind::type_object request)
      : allocator_(std::move(allocator)),
        request_type_(std::move(request)),
        keeps_both_(nanobind::hasattr(allocator_, "mapped_bytes") &&
                    nanobind::hasattr(allocator_, "committed_bytes")) {
    if (!PyType_IsSubtype(request_type(), &PyTuple_Type)) {
      throw std::invalid_argument("a request is a tuple");
    }
    take_methods();
  }

  // Looks up anew what will be called: an allocator may have exchanged a method of its own since.
  void take_methods() {
    allocate_ = allocator_.attr("allocate");
    release_ = allocator_.attr("release");
    reallocate_ = allocator_.attr("reallocate");
  }

  Block allocate(const Request& request) {
    return block_of(call<1>(allocate_, {request_object(request).ptr()}));
  }

  Block reallocate(const Block& old, const Request& request) {
    const Block block = block_of(call<2>(reallocate_, {old.object, request_object(request).ptr()}));
    // The old reference, be it to the same object, ends only when no slot can be seen to have it.
    if (block) replaced_ = nanobind::steal(old.object);
    return block;
  }

  void release(const Block& block, std::uint16_t thread) {
    const nanobind::object released = nanobind::steal(block.object);
    const nanobind::object number = integer(thread);
    call<2>(release_, {released.ptr(), number.ptr()});
  }

  void collect() {
    is_read_ = false;
    allocator_.attr("collect")();
  }

  void thread_end(std::uint16_t thread) {
    is_read_ = false;
    allocator_.attr("thread_end")(thread);
  }

  void prefetch(const Block& block) const { __builtin_prefetch(block.object, 1); }

  Footprint footprint() const {
    const nanobind::object said = allocator_.attr("footprint")();
    if (!PyTuple_Check(said.ptr()) || PyTuple_GET_SIZE(said.ptr()) != Py_ssize_t{kFields}) {
      throw InvariantError(std::string("footprint() returned ") + Py_TYPE(said.ptr())->tp_name +
                           ", expected a harness.allocator.Footprint");
    }
    std::array<std::int64_t, kFields> bytes;
    for (std::size_t i = 0; i < kFields; ++i) {
      PyObject* const part = PyTuple_GET_ITEM(said.ptr(), static_cast<Py_ssize_t>(i));
      bytes[i] = part == Py_None ? kUnknown : known_bytes(part, kNames[i]);
    }
    is_read_ = false;  // A footprint may bring both numbers up to date.
    return std::bit_cast<Footprint>(bytes);
  }

  bool knows(const Footprint& footprint) const {
    const auto parts = std::bit_cast<std::array<std::int64_t, kFields>>(footprint);
    return std::find(parts.begin(), parts.end() - 1, kUnknown) == parts.end() - 1;  // The last is metadata.
  }

  std::uint64_t mapped_bytes() const {
    read();
    return mapped_bytes_;
  }
  std::uint64_t committed_bytes() const {
    read();
    return committed_bytes_;
  }

  int traverse(visitproc visit, void* arg) const {
    for (const nanobind::object* held : {&allocator_, &allocate_, &release_, &reallocate_}) {
      Py_VISIT(held->ptr());
    }
    return 0;
  }

 private:
  static constexpr std::size_t kFields = sizeof(Footprint) / sizeof(std::int64_t);
  static constexpr std::array<const char*, kFields> kNames = {"live",    "dead",   "front_end", "transfer",
                                                              "central", "tail",   "page_heap", "released",
                                                              "runtime", "mapped", "metadata"};
  // Sizes that have one object for all requests, as most are asked for again and again: a program's many live
  // blocks, which often remember their sizes, would otherwise lie scattered over memory that no cache holds.
  static constexpr std::size_t kSharedSizes = 4096;

  PyTypeObject* request_type() const { return reinterpret_cast<PyTypeObject*>(request_type_.ptr()); }

  // Python says by a null pointer that it has raised something.
  static PyObject* made(PyObject* object) {
    if (object == nullptr) nanobind::raise_python_error();
    return object;
  }

  static nanobind::object integer(std::uint64_t value) {
    return nanobind::steal(made(PyLong_FromUnsignedLongLong(value)));
  }

  template <std::size_t kCount>
  nanobind::object call(const nanobind::object& method, const std::array<PyObject*, kCount>& arguments) {
    is_read_ = false;
    replaced_.reset();
    // The place before the first is the interpreter's, for the object that the method belongs to.
    PyObject* places[kCount + 1] = {};
    std::copy_n(arguments.begin(), kCount, places + 1);
    return nanobind::steal(made(
        PyObject_Vectorcall(method.ptr(), places + 1, kCount | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr)));
  }

  static Block block_of(nanobind::object answer) {
    return answer.is_none() ? Block{} : Block{answer.release().ptr()};
  }

  // The Request that was handed out last, if nobody has kept it, else a new one: nobody can see the change.
  nanobind::handle request_object(const Request& request) {
    const bool is_new = !request_.is_valid() || Py_REFCNT(request_.ptr()) != 1;
    if (is_new) request_ = nanobind::steal(made(request_type()->tp_alloc(request_type(), 5)));
    const auto put = [this](Py_ssize_t place, nanobind::object value) {
      PyObject* const old = PyTuple_GET_ITEM(request_.ptr(), place);
      PyTuple_SET_ITEM(request_.ptr(), place, value.release().ptr());
      Py_XDECREF(old);
    };
    const auto flag = [](bool is_set) { return nanobind::borrow(is_set ? Py_True : Py_False); };
    if (is_new || request.size != last_.size) put(0, size_object(request.size));
    if (is_new || request.alignment != last_.alignment) put(1, integer(request.alignment));
    if (is_new || request.noscan != last_.noscan) put(2, flag(request.noscan));
    if (is_new || request.zeroed != last_.zeroed) put(3, flag(request.zeroed));
    if (is_new || request.thread != last_.thread) put(4, integer(request.thread));
    last_ = request;
    return request_;
  }

  nanobind::object size_object(std::uint64_t bytes) {
    if (bytes >= kSharedSizes) return integer(bytes);
    nanobind::object& shared = sizes_[bytes];
    if (!shared.is_valid()) shared = integer(bytes);
    return shared;
  }

  // The two numbers change in a call only, and the loop asks for them more than once after it.
  void read() const {
    if (is_read_) return;
    if (keeps_both_) {
      mapped_bytes_ = kept(mapped_name_, "mapped_bytes");
      committed_bytes_ = kept(committed_name_, "committed_bytes");
    } else {
      const Footprint now = footprint();
      const bool is_known = now.mapped != kUnknown;
      const std::int64_t mapped = is_known ? now.mapped : 0;
      const std::int64_t released = is_known && now.released != kUnknown ? now.released : 0;
      if (released > mapped) {
        throw InvariantError("released is " + std::to_string(released) + ", expected at most mapped, " +
                             std::to_string(mapped));
      }
      mapped_bytes_ = static_cast<std::uint64_t>(mapped);
      committed_bytes_ = static_cast<std::uint64_t>(mapped - released);
    }
    is_read_ = true;
  }

  std::uint64_t kept(const nanobind::object& attribute, const char* name) const {
    const nanobind::object number =
        nanobind::steal(made(PyObject_GetAttr(allocator_.ptr(), attribute.ptr())));
    return static_cast<std::uint64_t>(known_bytes(number.ptr(), name));
  }

  static std::int64_t known_bytes(PyObject* number, const char* name) {
    const long long bytes = PyLong_AsLongLong(number);
    if (bytes >= 0) return bytes;
    PyErr_Clear();  // What is no whole number has raised something.
    throw InvariantError(std::string(name) + " is " + nanobind::repr(number).c_str() +
                         ", expected a whole number of bytes, 0 or more");
  }

  nanobind::object allocator_;
  nanobind::type_object request_type_;
  bool keeps_both_;
  nanobind::object allocate_, release_, reallocate_;
  nanobind::object mapped_name_ = nanobind::steal(made(PyUnicode_InternFromString("mapped_bytes")));
  nanobind::object committed_name_ = nanobind::steal(made(PyUnicode_InternFromString("committed_bytes")));
  std::vector<nanobind::object> sizes_ = std::vector<nanobind::object>(kSharedSizes);
  nanobind::object request_;
  Request last_;  // What stands in it.
  nanobind::object replaced_;
  mutable bool is_read_ = false;
  mutable std::uint64_t mapped_bytes_ = 0;
  mutable std::uint64_t committed_bytes_ = 0;
};

// The loop with such an allocator, and the blocks that it holds on to.
class PythonReplay : public Replay<PythonAllocator> {
 public:
  using Replay::Replay;

  PythonReplay(const PythonReplay&) = delete;
  PythonReplay& operator=(const PythonReplay&) = delete;
  ~PythonReplay() {
    for (const Block& block : blocks()) Py_XDECREF(block.object);
  }

  // What Python's search for cycles has to know: an allocator refers to its loop, and a block may to both.
  int traverse(visitproc visit, void* arg) const {
    for (const Block& block : blocks()) Py_VISIT(block.object);
    return allocator().traverse(visit, arg);
  }
};

static_assert(Allocator<PythonAllocator> && Reallocates<PythonAllocator> && Prefetches<PythonAllocator>);

}  // namespace harness
