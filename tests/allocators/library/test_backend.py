"""Real libraries as rows of the table, through the engine as a user runs it."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from library_support import needs_library
from support import TRACES, harness, random_rows, write_trace

from harness.allocator import ALLOC, FREE, PARTS, REALLOC, find
from harness.errors import AllocatorError
from harness.replay import Settings, replay

NAMES = ("glibc", "libtcmalloc", "jemalloc", "mimalloc")
MIB = 1 << 20


def runs(path, *texts, samples=200):
    specs = [spec for text in texts for spec in find(text)]
    return replay(str(path), specs, Settings(samples=samples)).runs


@pytest.fixture(params=NAMES)
def name(request):
    """Each library that has an entry point of its own."""
    return needs_library(request.param)


@pytest.fixture(scope="module")
def random_trace(tmp_path_factory):
    return write_trace(tmp_path_factory.mktemp("random") / "t.parquet", random_rows(20_000, threads=4))


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Compiles a shared library from C; returns its path."""
    folder = tmp_path_factory.mktemp("libraries")

    def compiled(name, code):
        source = folder / f"{name}.c"
        source.write_text(code)
        path = folder / f"lib{name}.so"
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-O1", "-fno-builtin", str(source), "-o", str(path), "-ldl"],
            check=True,
        )
        return path

    return compiled


# A malloc that works: a bump allocator that writes each block's size in front of it.
BUMP = """
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
static char heap[64 << 20];
static size_t used, calls;
static void on_call(void);
static void *take(size_t alignment, size_t size) {
  used = (used + 16 + alignment - 1) / alignment * alignment;
  char *block = heap + used;
  memcpy(block - 8, &size, 8);
  used += size;
  return used > sizeof heap ? NULL : block;
}
void *malloc(size_t size) { if (++calls > 300) on_call(); return take(16, size); }
void *calloc(size_t count, size_t size) { return take(16, count * size); }
void free(void *block) { (void)block; }
int posix_memalign(void **block, size_t alignment, size_t size) {
  *block = take(alignment < 16 ? 16 : alignment, size);
  return *block == NULL ? ENOMEM : 0;
}
void *realloc(void *block, size_t size) {
  void *moved = take(16, size);
  size_t old = 0;
  if (block != NULL) { memcpy(&old, (char *)block - 8, 8); memcpy(moved, block, old < size ? old : size); }
  return moved;
}
"""


def bump(on_call, extra=""):
    return BUMP + extra + "\nstatic void on_call(void) { " + on_call + " }\n"


@pytest.mark.parametrize("trace", TRACES, ids=lambda path: path.stem)
def test_the_model_and_the_library_hold_the_same_bytes_in_every_part_at_every_stop(trace):
    needs_library("libtcmalloc")
    model, real = runs(trace, "tcmalloc:like=installed", "libtcmalloc:timing=off,touch=none")
    for part in (*PARTS, "mapped"):
        assert real.samples[part] == model.samples[part], part
    assert real.footprint["end"] | {"metadata": None} == model.footprint["end"] | {"metadata": None}
    assert not any("like with like" in text for text in real.warnings)
