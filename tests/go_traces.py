"""What tests of Go's execution traces share: real ones of a real program, and ones written byte by byte."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from allocators.go.runtime import Toolchain

# Allocates known numbers of known types between two marks, and says what runtime.MemStats counted there.
PROGRAM = """
package main

import (
	"encoding/json"
	"os"
	"runtime"
	"runtime/trace"
	"sync"
	"time"
)

type Begin struct{ a, b, c *int }
type End struct{ a, b, c *int }
type Pair struct{ left, right *Pair } // 16 bytes.
type Odd struct {
	p *int
	n [9]int
} // 80 bytes.
type Header struct {
	p *int
	n [99]int
} // 800 bytes, behind a header of 8.
type Plain struct{ n [5]int } // 40 bytes without pointers, in slots of 48.

var pairs []*Pair
var odds []*Odd
var rows [][]Odd
var headers []*Header
var plains []*Plain
var raws [][]byte
var smalls []*int32
var sink any

func allocate(count int, keep bool) {
	for i := 0; i < count; i++ {
		pairs[i] = new(Pair)
		odds[i] = new(Odd)
		rows[i] = make([]Odd, 3) // 240 bytes.
		headers[i] = new(Header)
		plains[i] = new(Plain)
		raws[i] = make([]byte, 1000) // In slots of 1024.
		smalls[i] = new(int32)
	}
	if !keep {
		clear(pairs)
		clear(odds)
	}
}

func main() {
	count := 2000
	pairs, odds = make([]*Pair, count), make([]*Odd, count)
	rows, headers = make([][]Odd, count), make([]*Header, count)
	plains, raws, smalls = make([]*Plain, count), make([][]byte, count), make([]*int32, count)
	file, _ := os.Create(os.Args[1])
	if err := trace.Start(file); err != nil {
		panic(err)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.GC() // What the first of them has swept is no part of what is counted.
	sink = new(Begin)
	runtime.ReadMemStats(&before)
	if len(os.Args) > 2 && os.Args[2] == "many" {
		var group sync.WaitGroup
		for g := 0; g < 8; g++ {
			group.Add(1)
			go func() {
				defer group.Done()
				var local []*Pair
				for i := 0; i < 20000; i++ {
					local = append(local, &Pair{})
					if len(local) == 1000 {
						local = nil
					}
				}
			}()
		}
		group.Wait()
	}
	allocate(count, false)
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&after)
	sink = new(End)
	if len(os.Args) > 2 && os.Args[2] == "long" {
		time.Sleep(1200 * time.Millisecond) // A generation is a second.
		allocate(100, true)
	}
	trace.Stop()
	file.Close()
	mallocs, frees := map[uint32]uint64{}, map[uint32]uint64{}
	for i := range after.BySize {
		if n := after.BySize[i].Mallocs - before.BySize[i].Mallocs; n > 0 {
			mallocs[after.BySize[i].Size] = n
		}
		if n := after.BySize[i].Frees - before.BySize[i].Frees; n > 0 {
			frees[after.BySize[i].Size] = n
		}
	}
	json.NewEncoder(os.Stdout).Encode(map[string]any{
		"mallocs": mallocs, "frees": frees,
		"all_mallocs": after.Mallocs - before.Mallocs, "all_frees": after.Frees - before.Frees,
	})
}
"""

COUNT = 2000
# Type, size in bytes, whether it has pointers: what the program allocates COUNT times each.
EXACT = {
    "main.Pair": (16, False),
    "main.Header": (800, False),
    "main.Plain": (40, True),
}


def built(toolchain: Toolchain, folder: Path) -> Path:
    """The program, built."""
    (folder / "main.go").write_text(PROGRAM)
    program = folder / "program"
    command = [str(toolchain.go), "build", "-o", str(program), "main.go"]
    subprocess.run(command, cwd=folder, check=True, env=os.environ | {"GOTOOLCHAIN": "local", "GOFLAGS": ""})
    return program


def traced(
    program: Path, trace: Path, mode: str = "", *, procs: int = 1, debug: str = ""
) -> dict[str, object]:
    """Run the program; returns what it counted itself."""
    environment = os.environ | {
        "GODEBUG": ",".join(part for part in (debug, "traceallocfree=1") if part),
        "GOMAXPROCS": str(procs),
        "GOGC": "100",
    }
    command = [str(program), str(trace), *([mode] if mode else [])]
    done = subprocess.run(command, env=environment, check=True, capture_output=True)
    counted: dict[str, object] = json.loads(done.stdout)
    return counted


def told_by_tool(toolchain: Toolchain, trace: Path) -> Counter[tuple[str, int]]:
    """How many experimental events Go's own tool finds, by name and P."""
    command = [str(toolchain.go), "tool", "trace", "-d=parsed", str(trace)]
    found: Counter[tuple[str, int]] = Counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            words = line.split()
            if len(words) > 5 and words[3] == "Experimental":
                found[words[5].removeprefix("Name="), int(words[1].removeprefix("P="))] += 1
    assert process.returncode == 0
    return found


# ---- Byte by byte ---------------------------------------------------------------------------------------

SPAN, SPAN_ALLOC, SPAN_FREE, EXISTS, ALLOC, FREE = range(128, 134)
PROC_START, GC_ACTIVE, GC_BEGIN, GC_END = 10, 28, 29, 30
HEAP = 0xC000000000


def number(value: int) -> bytes:
    """A number as the format has it."""
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def numbers(*values: int) -> bytes:
    """Several."""
    return b"".join(map(number, values))


@dataclass
class Wire:
    """An execution trace; machine M has processor M, and events their times as they are added."""

    version: int = 26
    generation: int = 1
    data: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self.data += b"go 1.%d trace\0\0\0" % self.version
        self.begin()

    def begin(self) -> None:
        """What a generation begins with: the clock, of a tick a nanosecond, and the heap's begin."""
        if self.version >= 25:
            self.batch(0, 0, bytes([50, 8]) + number(10**9) + bytes([51]) + numbers(0, 1, 2, 3))
        else:
            self.batch(0, 0, bytes([8]) + number(10**9))
        if self.generation == 1:
            self.experiment(bytes([1]) + numbers(HEAP, 8192, 8, 2048))

    def batch(self, machine: int, time: int, data: bytes) -> None:
        """Add a batch."""
        self.data += b"\x01" + numbers(self.generation, machine, time, len(data)) + data

    def experiment(self, data: bytes) -> None:
        """Add a batch of allocation data."""
        self.data += b"\x31\x01" + numbers(self.generation, 0, 0, len(data)) + data

    def types(self, *types: tuple[int, int, int, str]) -> None:
        """Name types: number, size, bytes with pointers, name."""
        data = bytearray([0])
        for id, size, pointer_bytes, name in types:
            data += numbers(id, 0x1000 + id, size, pointer_bytes, len(name)) + name.encode()
        self.experiment(bytes(data))

    def events(self, machine: int, time: int, *events: tuple[int, ...]) -> None:
        """Add a batch of events, a tick from each to the next, after the machine's start of its processor."""
        data = bytes([PROC_START]) + numbers(0, machine, 1)
        for type, *arguments in events:
            data += bytes([type]) + numbers(1, *arguments)
        self.batch(machine, time, data)

    def end(self) -> Wire:
        """End the generation and begin another."""
        if self.version >= 26:
            self.data += b"\x34"
        self.generation += 1
        self.begin()
        return self

    def whole(self) -> bytes:
        """The file, whose last generation may be empty."""
        return bytes(self.data) + (b"\x34" if self.version >= 26 else b"")


def sample(version: int) -> bytes:
    """A small trace with all that is told of a heap: two threads, two generations, objects of every kind."""
    page, scan_48, noscan_16, large, manual = 1024, 5 << 2, (2 << 2) | 2, 0, 1
    wire = Wire(version)
    wire.batch(0, 0, b"\x04\x05\x07\x0aruntime.GC\x05\x08\x04main")
    wire.batch(0, 0, bytes([2, 3, 1, 2, 9, 7, 8, 1, 9, 8, 8, 2]))
    wire.types((1, 48, 8, "T"), (2, 8, 0, "int64"), (3, 30000, 8, "Large"))
    wire.events(
        *(0, 10),
        (SPAN, 9, 4, manual),
        (SPAN, 1, 1, scan_48),
        (EXISTS, page, 1),
        (SPAN_ALLOC, 2, 1, noscan_16),
        (ALLOC, 2 * page, 2),
        (ALLOC, 2 * page + 1, 2),
        (SPAN_ALLOC, 3, 8, large),
        (ALLOC, 3 * page, 3),
        (GC_BEGIN, 1, 1),
        (ALLOC, page + 6, 0),
        (GC_END, 2),
        (FREE, 3 * page),
        (SPAN_FREE, 3),
    )
    wire.events(1, 25, (FREE, page), (ALLOC, page, 1))
    wire.end()
    wire.types((4, 48, 8, "T"))
    wire.events(
        0, 60, (ALLOC, page + 12, 4), (GC_BEGIN, 3, 0), (GC_END, 4), (FREE, 2 * page), (FREE, page + 6)
    )
    return wire.whole()
