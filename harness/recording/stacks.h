/* Which stacks and modules of this process are in the raw file already, so that each is written once.
 *
 * Of fixed size, without locks, and safe in signal handlers: a table that forgets. A stack that it forgot is
 * written again under another number, and convert.hpp finds out that the two are one. The kernel clears it in
 * a forked child (MADV_WIPEONFORK), whose file begins without any. preload.c includes this file. */
#pragma once

#include <elf.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "raw.h"

/* 16 MiB of address space, of which a program touches what its stacks take; halved where that is too much. */
#define MAX_STACKS_BITS 20
#define MIN_STACKS_BITS 10
/* Stacks that a hash may stand for: a line of the cache. */
#define STACKS_OF_HASH 4
#define MAX_KNOWN_MODULES 4096
/* Of the first segment at least a page is mapped; program headers stand there. */
#define MIN_MAPPED_BYTES 4096
#define NUMBER_FACTOR UINT64_C(0xD6E8FEB86659FD93)

/* The key is hash xor a mix of the number, so that halves of two entries are no entry. */
struct stack_entry {
  uint64_t key;
  uint64_t number;
};

struct known_module {
  uintptr_t begin;
  uintptr_t end;
  uint32_t generation; /* Written last. */
};

struct known_stacks {
  _Alignas(64) struct known_module modules[MAX_KNOWN_MODULES];
  uint32_t modules_taken;
  _Alignas(64) struct stack_entry stacks[];
};

static struct known_stacks* known;
static unsigned known_bits;
/* Changes when a library was unloaded: the same addresses may mean another stack then. */
static uint32_t generation_number = 1;
static uint32_t last_stack_number;

static bool make_known_stacks(void) {
  if (known != NULL) return true;
  for (known_bits = MAX_STACKS_BITS; known_bits >= MIN_STACKS_BITS; --known_bits) {
    const size_t bytes = sizeof *known + ((size_t)1 << known_bits) * sizeof *known->stacks;
    void* mapped =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) continue;
    if (madvise(mapped, bytes, MADV_WIPEONFORK) != 0) {
      munmap(mapped, bytes);
      return false;
    }
    known = mapped;
    return true;
  }
  return false;
}

static uint32_t stack_generation(void) { return __atomic_load_n(&generation_number, __ATOMIC_ACQUIRE); }
static void begin_stack_generation(void) { __atomic_fetch_add(&generation_number, 1, __ATOMIC_ACQ_REL); }

/* Numbers go on in a forked child, so that they are no other stack's of its ancestors. */
static uint32_t next_stack_number(void) {
  return __atomic_add_fetch(&last_stack_number, 1, __ATOMIC_RELAXED);
}

static struct stack_entry* entries_of(uint64_t hash) {
  const uint64_t set = hash >> (64 - known_bits) & ~(uint64_t)(STACKS_OF_HASH - 1);
  return known->stacks + set;
}

/* The stack's number, or 0. The hash mixes its addresses and the generation. */
static uint32_t known_stack(uint64_t hash) {
  const struct stack_entry* entries = entries_of(hash);
  for (size_t i = 0; i < STACKS_OF_HASH; ++i) {
    const uint64_t number = __atomic_load_n(&entries[i].number, __ATOMIC_ACQUIRE);
    const uint64_t key = __atomic_load_n(&entries[i].key, __ATOMIC_RELAXED);
    if (number != 0 && (key ^ number * NUMBER_FACTOR) == hash) return (uint32_t)number;
  }
  return 0;
}

static void learn_stack(uint64_t hash, uint32_t number) {
  struct stack_entry* entries = entries_of(hash);
  size_t chosen = number % STACKS_OF_HASH;
  for (size_t i = 0; i < STACKS_OF_HASH; ++i) {
    if (__atomic_load_n(&entries[i].number, __ATOMIC_RELAXED) == 0) {
      chosen = i;
      break;
    }
  }
  __atomic_store_n(&entries[chosen].key, hash ^ number * NUMBER_FACTOR, __ATOMIC_RELAXED);
  __atomic_store_n(&entries[chosen].number, number, __ATOMIC_RELEASE);
}

static bool is_known_module(uintptr_t address, uint32_t generation) {
  uint32_t taken = __atomic_load_n(&known->modules_taken, __ATOMIC_ACQUIRE);
  if (taken > MAX_KNOWN_MODULES) taken = MAX_KNOWN_MODULES;
  for (uint32_t i = 0; i < taken; ++i) {
    const struct known_module* module = &known->modules[i];
    if (__atomic_load_n(&module->generation, __ATOMIC_ACQUIRE) == generation && address >= module->begin &&
        address < module->end) {
      return true;
    }
  }
  return false;
}

/* Beyond the last place a module is forgotten at once, and written again with each new stack. */
static void learn_module(uintptr_t begin, uintptr_t end, uint32_t generation) {
  if (__atomic_load_n(&known->modules_taken, __ATOMIC_RELAXED) >= MAX_KNOWN_MODULES) return;
  const uint32_t place = __atomic_fetch_add(&known->modules_taken, 1, __ATOMIC_ACQ_REL);
  if (place >= MAX_KNOWN_MODULES) return;
  known->modules[place].begin = begin;
  known->modules[place].end = end;
  __atomic_store_n(&known->modules[place].generation, generation, __ATOMIC_RELEASE);
}

/* Copies the build id of the ELF image that is mapped at `image`; returns its bytes, 0 where it has none. */
static size_t build_id_at(const void* image, size_t image_bytes, uint8_t* build_id) {
  const Elf64_Ehdr* header = image;
  if (image_bytes < sizeof *header || memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 ||
      header->e_phentsize != sizeof(Elf64_Phdr) ||
      header->e_phoff + header->e_phnum * sizeof(Elf64_Phdr) > MIN_MAPPED_BYTES) {
    return 0;
  }
  const Elf64_Phdr* segments = (const Elf64_Phdr*)(const void*)((const char*)image + header->e_phoff);
  uintptr_t lowest = UINTPTR_MAX;
  for (size_t i = 0; i < header->e_phnum; ++i) {
    if (segments[i].p_type == PT_LOAD && segments[i].p_vaddr < lowest) lowest = segments[i].p_vaddr;
  }
  for (size_t i = 0; i < header->e_phnum; ++i) {
    if (segments[i].p_type != PT_NOTE || segments[i].p_align > 8) continue;
    const size_t offset = segments[i].p_vaddr - (lowest & ~UINT64_C(0xFFF));
    const size_t align = segments[i].p_align == 8 ? 8 : 4;
    if (offset >= image_bytes || segments[i].p_memsz > image_bytes - offset) continue;
    const char* at = (const char*)image + offset;
    const char* end = at + segments[i].p_memsz;
    while ((size_t)(end - at) >= sizeof(Elf64_Nhdr)) {
      Elf64_Nhdr note;
      memcpy(&note, at, sizeof note);
      const char* name = at + sizeof note;
      const char* content = name + ((note.n_namesz + align - 1) & ~(align - 1));
      if (content + note.n_descsz > end || content < at) break;
      if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && memcmp(name, "GNU", 4) == 0) {
        const size_t bytes = note.n_descsz < RAW_BUILD_ID_BYTES ? note.n_descsz : RAW_BUILD_ID_BYTES;
        memcpy(build_id, content, bytes);
        return bytes;
      }
      at = content + ((note.n_descsz + align - 1) & ~(align - 1));
    }
  }
  return 0;
}
