"""The table of sites in a trace, and the frame that is held responsible for an allocation."""

from __future__ import annotations

import base64

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import HarnessError, TraceError
from harness.sites import Frame, Sites, blamed, decode, encode, is_wrapper, key_of, plain_name

texts = st.none() | st.text(max_size=12).filter(lambda text: not any(0xD800 <= ord(c) < 0xE000 for c in text))
frames = st.builds(
    Frame, texts.map(lambda text: text or "f"), texts, st.none() | st.integers(0, 2**32 - 1), texts
)
stacks = st.lists(st.lists(frames, max_size=5).map(tuple), max_size=8)

MAIN = Frame("main", "main.c", 7, "program")
NEW = Frame("operator new(unsigned long)", None, None, "libstdc++.so.6")


def all_stacks(sites):
    return [sites.stack(site) for site in range(len(sites))]


def stored(table):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return base64.b64encode(sink.getvalue())


# ---- The table --------------------------------------------------------------------------------------


@given(stacks)
def test_what_is_encoded_is_decoded(wanted):
    assert all_stacks(decode(encode(Sites.of_stacks(wanted)), "x")) == wanted


def test_types_are_kept_where_there_are_any():
    sites = decode(encode(Sites.of_stacks([(), (MAIN,)], [None, "Node"])), "x")
    assert [sites.type_of(site) for site in (0, 1, 2)] == [None, "Node", None]
    assert decode(encode(Sites.of_stacks([(MAIN,)])), "x").types is None


def test_a_trace_without_a_table_has_no_frames():
    sites = decode(None, "x")
    assert sites.stack(5) == ()
    assert sites.type_of(5) is None


def test_the_stream_is_arrows_own_and_compressed():
    many = Sites.of_stacks([(MAIN,) * 100] * 1000)
    content = base64.b64decode(encode(many))
    table = pa.ipc.open_stream(content).read_all()
    assert table.schema.names == ["site", "frames"]
    assert len(content) < 20_000


def test_frames_without_a_dictionary_and_rows_in_any_order_are_read_too():
    frame = {"function": "f", "file": "a.c", "line": 3, "module": None}
    table = pa.table({"site": pa.array([2, 0], pa.uint32()), "frames": [[frame, frame], []]})
    sites = decode(stored(table), "x")
    assert all_stacks(sites) == [(), (), (Frame("f", "a.c", 3, None),) * 2]


def test_frames_of_functions_alone_are_enough():
    table = pa.table({"site": pa.array([0], pa.uint64()), "frames": [[{"function": "f"}]]})
    assert all_stacks(decode(stored(table), "x")) == [(Frame("f"),)]


@pytest.mark.parametrize(
    "damaged",
    [
        b"no base64!",
        base64.b64encode(b"no Arrow stream"),
        stored(pa.table({"site": [0]})),
        stored(pa.table({"site": [0], "frames": ["f"]})),
        stored(pa.table({"site": [0], "frames": [["f"]]})),
        stored(pa.table({"site": [4_000_000_000], "frames": [[{"function": "f"}]]})),
        stored(
            pa.table(
                {
                    "site": [0],
                    "frames": pa.ListArray.from_arrays(
                        [0, 1],
                        pa.DictionaryArray.from_arrays(
                            pa.array([7], pa.int32()), pa.array([{"function": "f"}]), safe=False
                        ),
                    ),
                }
            )
        ),
    ],
)
def test_a_damaged_table_is_one_line_that_names_the_trace(damaged):
    with pytest.raises(
        TraceError, match=r"my\.parquet: metadata key harness\.sites: found no table of sites"
    ):
        decode(damaged, "my.parquet")


# ---- Whom to hold responsible -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        *["operator new(unsigned long)", "operator new[](unsigned long, std::align_val_t)"],
        *["malloc", "xmalloc", "zmalloc", "zmalloc_usable", "ztrycalloc_usable", "g_malloc0", "je_malloc"],
        *["xcalloc", "g_strdup", "xrealloc", "reallocarray", "sqlite3Malloc", "sqlite3_malloc64"],
        *["PyMem_Malloc", "_PyObject_GC_New", "PyObject_Malloc", "_PyMem_RawMalloc"],
        "std::vector<int, std::allocator<int> >::reserve(unsigned long)",
        "void std::vector<Node, std::allocator<Node> >::_M_realloc_insert<Node const&>(Node const&)",
        "__gnu_cxx::new_allocator<char>::allocate(unsigned long, void const*)",
        "std::__new_allocator<std::_Rb_tree_node<std::pair<int const, Node> > >::allocate(unsigned long)",
        "alloc::raw_vec::RawVec<T,A>::reserve::do_reserve_and_handle",
        "<alloc::vec::Vec<T> as core::clone::Clone>::clone",
        "__rust_alloc",
        "decltype (::new ((void*)(0)) A(declval<int>())) std::construct_at<A, int>(A*, int&&)",
    ],
)
def test_who_passes_a_request_on_is_not_to_blame(function):
    assert is_wrapper(Frame(function, None, None, "program"))


@pytest.mark.parametrize(
    "function",
    [
        *["main", "allocate_seats", "Basket::fill(unsigned long)", "mallory", "renew", "newspaper"],
        "shop::Map<std::string>::insert(std::string const&)",
        "std_style",
        "process(std::vector<int>)",
        "Pool::operator()(int)",
        "decltype (f((int)(0))) make<int>(int)",
    ],
)
def test_a_functions_arguments_and_a_likeness_of_names_make_no_wrapper(function):
    assert not is_wrapper(Frame(function, None, None, "program"))


@pytest.mark.parametrize(
    "module", ["libc.so.6", "libstdc++.so.6.0.30", "ld-linux-x86-64.so.2", "libc++abi.so.1", "libc-2.31.so"]
)
def test_all_of_a_runtime_passes_on(module):
    assert is_wrapper(Frame("getdelim", None, None, module))
    assert not is_wrapper(Frame("getdelim", None, None, "libcrypto.so.3"))


def test_a_plain_name_has_neither_arguments_nor_a_type():
    assert plain_name("std::pair<int, A<B> > shop::f<int>(std::string)") == "shop::f"
    assert plain_name("operator new[](unsigned long)") == "operator new[]"
    assert plain_name("(anonymous namespace)::f(int)") == "{anonymous}::f"
    assert plain_name("program+0x10") == "program+0x10"


def test_the_innermost_frame_that_is_no_wrapper_is_blamed():
    fill = Frame("fill()", "fill.cpp", 3, "program")
    stack = (NEW, Frame("std::vector<int>::reserve(unsigned long)", "v.h", 9, "program"), fill, MAIN)
    assert blamed(stack) == (fill, MAIN)
    assert blamed(stack, outward=1) == (MAIN,)
    assert blamed(stack, outward=9) == (MAIN,)


def test_where_all_only_pass_on_the_innermost_is_blamed_and_nobody_for_an_unknown_stack():
    stack = (NEW, Frame("main_of_runtime", None, None, "libc.so.6"))
    assert blamed(stack) == stack
    assert blamed(()) == ()


def test_groups_are_made_by_site_function_or_module():
    other = MAIN._replace(line=8)
    assert key_of(MAIN, "site") != key_of(other, "site")
    assert key_of(MAIN, "function") == key_of(other, "function")
    assert key_of(MAIN, "module") == Frame("program")
    with pytest.raises(HarnessError, match="--by planet"):
        key_of(MAIN, "planet")


def test_a_frame_says_where_it_stands():
    assert str(MAIN) == "main (main.c:7)"
    assert str(MAIN._replace(line=None)) == "main (main.c)"
    assert str(NEW) == "operator new(unsigned long) (libstdc++.so.6)"
    assert str(Frame("f")) == "f"
    assert str(Frame("libz.so.1+0x12", None, None, "libz.so.1")) == "libz.so.1+0x12"


def test_a_large_table_is_decoded_without_a_step_a_frame():
    sites = Sites([MAIN, NEW], np.zeros(3_000_000, np.int32), np.arange(0, 3_000_001, 30))
    assert decode(encode(sites), "x").stack(99_999) == (MAIN,) * 30
