"""malloc-bench's traces are read, as the real protobuf library writes them."""

from __future__ import annotations

import gzip

import pytest
from broken_support import expect_one_line_or_a_trace
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from harness.allocator import ALLOC, CALLOC, FREE, REALLOC
from harness.conversion import convert
from harness.errors import TraceError
from harness.formats import Reading, of_source
from harness.formats._formats import MallocBenchReader
from harness.trace import TraceReader

NO_THREADS = "the format knows no threads: every call stands under thread 0"

# proto/tracefile.proto of github.com/ClaytonKnittel/malloc-bench: names and numbers.
CALLS = {
    "malloc": (1, ["result_id", "input_size", "input_alignment"]),
    "calloc": (4, ["result_id", "input_nmemb", "input_size"]),
    "realloc": (3, ["result_id", "input_id", "input_size"]),
    "free": (2, ["input_id", "input_size_hint", "input_alignment_hint"]),
}


def tracefile_class():
    """The message's class, of a schema built here."""
    field = descriptor_pb2.FieldDescriptorProto
    schema = descriptor_pb2.FileDescriptorProto(
        name="tracefile.proto", package="bench.proto", syntax="proto2"
    )
    line = schema.message_type.add(name="TraceLine")
    line.oneof_decl.add(name="op")
    for name, (number, parts) in CALLS.items():
        call = line.nested_type.add(name=name.capitalize())
        for at, part in enumerate(parts, 1):
            call.field.add(name=part, number=at, type=field.TYPE_UINT64, label=field.LABEL_OPTIONAL)
        line.field.add(
            name=name,
            number=number,
            type=field.TYPE_MESSAGE,
            label=field.LABEL_OPTIONAL,
            type_name=f".bench.proto.TraceLine.{name.capitalize()}",
            oneof_index=0,
        )
    trace = schema.message_type.add(name="Tracefile")
    trace.field.add(
        name="lines",
        number=1,
        type=field.TYPE_MESSAGE,
        label=field.LABEL_REPEATED,
        type_name=".bench.proto.TraceLine",
    )
    trace.field.add(
        name="max_simultaneous_allocs", number=2, type=field.TYPE_UINT64, label=field.LABEL_OPTIONAL
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(schema)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("bench.proto.Tracefile"))


def tracefile(*calls):
    """The bytes of a trace; a call is its name and its fields."""
    trace = tracefile_class()(max_simultaneous_allocs=len(calls))
    for name, fields in calls:
        getattr(trace.lines.add(), name).SetInParent()
        for part, value in fields.items():
            setattr(getattr(trace.lines[-1], name), part, value)
    return trace.SerializeToString()


EVERY_CALL = [
    ("malloc", {"result_id": 0, "input_size": 70_000}),
    ("malloc", {"result_id": 1, "input_size": 5, "input_alignment": 4096}),
    ("calloc", {"result_id": 2, "input_nmemb": 3, "input_size": 2**33}),
    ("realloc", {"result_id": 7, "input_id": 0, "input_size": 9}),
    ("realloc", {"result_id": 0, "input_size": 10}),
    ("realloc", {"input_id": 0, "input_size": 0}),
    ("free", {"input_id": 7}),
    ("free", {}),
    ("free", {"input_id": 1, "input_size_hint": 5}),
    ("malloc", {"input_size": 0}),
    ("malloc", {"result_id": 2**64 - 1}),
]
ROWS = [
    (ALLOC, 0, 0, 70_000, 0),
    (ALLOC, 0, 1, 5, 4096),
    (CALLOC, 0, 2, 3 * 2**33, 0),
    (REALLOC, 0, 0, 9, 0),
    (ALLOC, 0, 3, 10, 0),
    (FREE, 0, 3, 0, 0),
    (FREE, 0, 0, 0, 0),
    (FREE, 0, 1, 0, 0),
    (ALLOC, 0, 1, 0, 0),
]


def converted(tmp_path, data, **reading):
    (tmp_path / "t.trace").write_bytes(data)
    target = str(tmp_path / "t.parquet")
    result = convert(str(tmp_path / "t.trace"), target, reading=Reading(**reading))
    rows = [
        tuple(int(value) for value in row)
        for raw in TraceReader(target).raw_batches()
        for row in zip(*raw.values(), strict=True)
    ]
    return rows, result.warnings


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_every_call_is_read(tmp_path, pack):
    data = pack(tracefile(*EVERY_CALL))
    (tmp_path / "unnamed").write_bytes(data)
    assert of_source(str(tmp_path / "unnamed"))[0] == "malloc-bench"
    assert converted(tmp_path, data) == (
        ROWS,
        [
            NO_THREADS,
            "left out: 1 call that returned null",
            "left out: 1 free's word on size or alignment",
        ],
    )


@pytest.mark.parametrize("size", range(1, 30))
def test_a_block_may_end_anywhere(size):
    data = tracefile(*EVERY_CALL)
    whole, parts = (MallocBenchReader(lenient=False) for _ in range(2))
    found = [parts.read(data[at : at + size])["size"].tolist() for at in range(0, len(data), size)]
    assert [value for part in found for value in part] == whole.read(data)["size"].tolist()
    assert not parts.end()["op"].size


def test_fields_of_a_later_schema_are_passed_over(tmp_path):
    call = b"\x08\x05\x10\x07" + b"\x78\x01" + b"\x79" + bytes(8) + b"\x7d" + bytes(4) + b"\x7a\x01x"
    line = b"\x0a" + bytes([len(call)]) + call + b"\x72\x00"
    data = b"\x0a" + bytes([len(line)]) + line + b"\x1a\x02hi"
    assert converted(tmp_path, data)[0] == [(ALLOC, 0, 0, 7, 0)]


WHOLE = tracefile(*EVERY_CALL[:1])
FAULTS = [
    (WHOLE + b"\x0a\x00", "record 2: found bytes that are none, expected a malloc, calloc, realloc or free"),
    (
        WHOLE + b"\x0a\x03\x0a\x05\x08",
        "record 2: found bytes that are none, expected fields that end where it does",
    ),
    (WHOLE + b"\x0a\x05\x0a", "expected the rest of it, and the file ends"),
    (WHOLE + b"\x0b", "expected a field of protobuf"),
    (WHOLE + b"\x0a\xff\xff\xff\xff\x0f", "expected a field of at most 1048576 bytes"),
    (WHOLE + b"\x80" * 9 + b"\x02", "expected a number of 64 bits"),
    (WHOLE + tracefile(("free", {"input_id": 3})), "record 2: found a free of 3, which is not live"),
    (WHOLE + tracefile(EVERY_CALL[0]), "record 2: found an allocation at 0, where an object lives"),
    (
        WHOLE + tracefile(("calloc", {"result_id": 1, "input_nmemb": 2**40, "input_size": 2**40})),
        "expected a size of 64 bits",
    ),
    (
        WHOLE + tracefile(("malloc", {"result_id": 1, "input_alignment": 2**40})),
        "expected an alignment of 32 bits",
    ),
]


@pytest.mark.parametrize(("data", "message"), FAULTS, ids=[message for _, message in FAULTS])
def test_a_fault_is_told_with_its_record_or_mended(tmp_path, data, message):
    with pytest.raises(
        TraceError, match=r"t\.trace: record 2: found .*; --lenient goes on and counts it"
    ) as caught:
        converted(tmp_path, data)
    assert message in str(caught.value)
    rows, losses = converted(tmp_path, data, lenient=True)
    assert rows[0] == ROWS[0]
    assert len(losses) == 2


def test_broken_files_are_one_line_or_a_trace(tmp_path):
    strict, lenient = expect_one_line_or_a_trace(
        tmp_path, "malloc-bench", tracefile(*EVERY_CALL), lines=False
    )
    assert lenient > strict > 0
