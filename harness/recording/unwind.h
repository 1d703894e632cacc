/* Walks the stack of the calling thread by the unwind tables that every x86-64 program carries (.eh_frame).
 *
 * No lock, no allocation, no signal mask and no library but libc: it may run inside malloc, in a signal
 * handler, and in a child forked at any moment, which libunwind, libgcc and backtrace() do not promise. What
 * the tables say of an address is kept in a cache of all threads, so that a frame costs a few loads. Rules
 * that compilers do not write (a frame found through another register than rsp or rbp) end the walk early.
 * preload.c includes this file. */
#pragma once

#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "raw.h"

/* ---- What is known of one address ------------------------------------------------------------------- */

/* How to come from a frame to its caller, in one word, zero for none. CFA is the value that rsp had before
 * the call; the return address stands just below it. */
#define RULE_IS_SET (UINT64_C(1) << 0)
#define RULE_ENDS (UINT64_C(1) << 1)          /* The outermost frame, or one that we do not understand. */
#define RULE_IS_SIGNAL (UINT64_C(1) << 2)     /* The trampoline that a signal handler returns to. */
#define RULE_CFA_BY_RBP (UINT64_C(1) << 3)    /* CFA = rbp + offset; otherwise rsp + offset. */
#define RULE_CFA_IS_LOADED (UINT64_C(1) << 4) /* CFA = what stands there: the stack was aligned anew. */
#define RULE_RBP_AT_CFA (UINT64_C(1) << 5)    /* The caller's rbp stands at CFA + offset. */
#define RULE_RBP_AT_RBP (UINT64_C(1) << 6)    /* It stands at rbp + offset. */
#define RULE_CFA_SHIFT 8                      /* 24 bits, signed. */
#define RULE_RBP_SHIFT 32                     /* 32 bits, signed. */

/* Offsets from rsp in the trampoline's frame: struct ucontext_t, kernel's asm/sigcontext.h. */
#define SIGNAL_RBP 120
#define SIGNAL_RSP 160
#define SIGNAL_RIP 168

/* ---- The tables: DWARF 5 section 6.4, LSB "Exception Frames" ----------------------------------------- */

#define DWARF_RBP 6
#define DWARF_RSP 7
#define DWARF_RIP 16
#define DW_OP_deref 0x06
#define DW_OP_breg0 0x70
#define DW_EH_PE_udata4 0x03
#define DW_EH_PE_datarel_sdata4 0x3b
#define MAX_REMEMBERED 8
#define MAX_CIE_FIELDS 8

struct cursor {
  const uint8_t* at;
  const uint8_t* end;
};

static uint64_t read_bytes(struct cursor* cursor, size_t bytes) {
  uint64_t value = 0;
  if ((size_t)(cursor->end - cursor->at) < bytes) {
    cursor->at = cursor->end;
    return 0;
  }
  memcpy(&value, cursor->at, bytes); /* Little-endian, as x86-64 is. */
  cursor->at += bytes;
  return value;
}

static uint64_t read_unsigned(struct cursor* cursor) {
  uint64_t value = 0;
  for (unsigned shift = 0; cursor->at < cursor->end; shift += 7) {
    const uint8_t byte = *cursor->at++;
    if (shift < 64) value |= (uint64_t)(byte & 0x7F) << shift;
    if ((byte & 0x80) == 0) break;
  }
  return value;
}

static int64_t read_signed(struct cursor* cursor) {
  uint64_t value = 0;
  for (unsigned shift = 0; cursor->at < cursor->end;) {
    const uint8_t byte = *cursor->at++;
    if (shift < 64) value |= (uint64_t)(byte & 0x7F) << shift;
    shift += 7;
    if ((byte & 0x80) != 0) continue;
    if ((byte & 0x40) != 0 && shift < 64) value |= ~UINT64_C(0) << shift;
    break;
  }
  return (int64_t)value;
}

/* Bytes of a pointer in this encoding; 0 for what no linker writes. */
static size_t encoded_bytes(uint8_t encoding) {
  switch (encoding & 0x0F) {
    case 0x00:
    case 0x04:
    case 0x0C:
      return 8;
    case 0x03:
    case 0x0B:
      return 4;
    case 0x02:
    case 0x0A:
      return 2;
    default:
      return 0;
  }
}

/* One row of the unwind table. */
struct cfi_row {
  enum { CFA_UNKNOWN, CFA_REGISTER, CFA_LOADED } cfa;
  uint64_t cfa_register;
  int64_t cfa_offset;
  enum { RBP_SAME, RBP_AT_CFA, RBP_AT_RBP, RBP_UNKNOWN } rbp;
  int64_t rbp_offset;
  enum { RIP_BELOW_CFA, RIP_NONE, RIP_UNKNOWN } rip;
};

struct cie {
  uint64_t code_alignment;
  int64_t data_alignment;
  size_t pointer_bytes;
  bool has_augmentation;
  bool is_signal;
  struct cursor instructions;
};

static bool read_cie(const uint8_t* at, struct cie* cie) {
  uint32_t length;
  memcpy(&length, at, sizeof length);
  if (length == 0 || length == UINT32_MAX) return false;
  struct cursor cursor = {at + 8, at + 4 + length}; /* Behind the length and the id. */
  const uint64_t version = read_bytes(&cursor, 1);
  const char* augmentation = (const char*)cursor.at;
  const size_t characters = strnlen(augmentation, (size_t)(cursor.end - cursor.at));
  if ((version != 1 && version != 3) || characters > MAX_CIE_FIELDS) return false;
  cursor.at += characters + 1;
  cie->code_alignment = read_unsigned(&cursor);
  cie->data_alignment = read_signed(&cursor);
  const uint64_t return_register = version == 1 ? read_bytes(&cursor, 1) : read_unsigned(&cursor);
  if (return_register != DWARF_RIP) return false;
  cie->pointer_bytes = sizeof(void*);
  cie->is_signal = false;
  cie->has_augmentation = augmentation[0] == 'z';
  if (characters > 0 && !cie->has_augmentation) return false;
  if (cie->has_augmentation) {
    const uint64_t bytes = read_unsigned(&cursor);
    const uint8_t* instructions = cursor.at + bytes;
    for (size_t i = 1; i < characters; ++i) {
      switch (augmentation[i]) {
        case 'L':
          read_bytes(&cursor, 1);
          break;
        case 'P': {
          const size_t personality_bytes = encoded_bytes((uint8_t)read_bytes(&cursor, 1));
          if (personality_bytes == 0) return false;
          read_bytes(&cursor, personality_bytes);
          break;
        }
        case 'R':
          cie->pointer_bytes = encoded_bytes((uint8_t)read_bytes(&cursor, 1));
          break;
        case 'S':
          cie->is_signal = true;
          break;
        default:
          return false;
      }
    }
    cursor.at = instructions;
  }
  cie->instructions = cursor;
  return cie->pointer_bytes != 0 && cursor.at <= cursor.end;
}

/* `[rbp or rsp + offset]`, with or without a load behind it; false for any other expression. */
static bool read_expression(struct cursor* cursor, uint64_t* base, int64_t* offset, bool* is_loaded) {
  const uint64_t bytes = read_unsigned(cursor);
  if (bytes > (uint64_t)(cursor->end - cursor->at)) return false;
  struct cursor expression = {cursor->at, cursor->at + bytes};
  cursor->at = expression.end;
  *base = read_bytes(&expression, 1) - DW_OP_breg0;
  *offset = read_signed(&expression);
  *is_loaded = expression.at < expression.end && read_bytes(&expression, 1) == DW_OP_deref;
  return expression.at == expression.end && (*base == DWARF_RBP || *base == DWARF_RSP);
}

static void set_offset(struct cfi_row* row, uint64_t number, int64_t offset) {
  if (number == DWARF_RBP) {
    row->rbp = RBP_AT_CFA;
    row->rbp_offset = offset;
  } else if (number == DWARF_RIP) {
    row->rip = offset == -(int64_t)sizeof(void*) ? RIP_BELOW_CFA : RIP_UNKNOWN;
  }
}

static void set_unknown(struct cfi_row* row, uint64_t number) {
  if (number == DWARF_RBP) row->rbp = RBP_UNKNOWN;
  if (number == DWARF_RIP) row->rip = RIP_UNKNOWN;
}

static void restore(struct cfi_row* row, const struct cfi_row* initial, uint64_t number) {
  if (number == DWARF_RBP) {
    row->rbp = initial->rbp;
    row->rbp_offset = initial->rbp_offset;
  } else if (number == DWARF_RIP) {
    row->rip = initial->rip;
  }
}

/* Carries out instructions up to the row of `target`, an offset from the function's begin; false where one
 * of them is unknown. */
static bool run_instructions(const struct cie* cie, struct cursor cursor, uint64_t target,
                             const struct cfi_row* initial, struct cfi_row* row) {
  struct cfi_row remembered[MAX_REMEMBERED];
  size_t remembered_rows = 0;
  uint64_t location = 0;
  while (cursor.at < cursor.end) {
    const uint8_t instruction = (uint8_t)read_bytes(&cursor, 1);
    const uint8_t low = instruction & 0x3F;
    uint64_t number;
    int64_t offset;
    bool is_loaded;
    uint64_t advance = 0;
    switch (instruction >> 6) {
      case 1: /* DW_CFA_advance_loc */
        location += low * cie->code_alignment;
        if (location > target) return true;
        continue;
      case 2: /* DW_CFA_offset */
        set_offset(row, low, (int64_t)read_unsigned(&cursor) * cie->data_alignment);
        continue;
      case 3: /* DW_CFA_restore */
        restore(row, initial, low);
        continue;
      default:
        break;
    }
    switch (instruction) {
      case 0x00: /* DW_CFA_nop */
        break;
      case 0x02: /* DW_CFA_advance_loc1, 2 and 4 */
      case 0x03:
      case 0x04:
        advance = read_bytes(&cursor, (size_t)1 << (instruction - 0x02));
        location += advance * cie->code_alignment;
        if (location > target) return true;
        break;
      case 0x05: /* DW_CFA_offset_extended */
        number = read_unsigned(&cursor);
        set_offset(row, number, (int64_t)read_unsigned(&cursor) * cie->data_alignment);
        break;
      case 0x11: /* DW_CFA_offset_extended_sf */
        number = read_unsigned(&cursor);
        set_offset(row, number, read_signed(&cursor) * cie->data_alignment);
        break;
      case 0x06: /* DW_CFA_restore_extended */
        restore(row, initial, read_unsigned(&cursor));
        break;
      case 0x07: /* DW_CFA_undefined: of rip, in the outermost frame */
        number = read_unsigned(&cursor);
        set_unknown(row, number);
        if (number == DWARF_RIP) row->rip = RIP_NONE;
        break;
      case 0x08: /* DW_CFA_same_value */
        number = read_unsigned(&cursor);
        if (number == DWARF_RBP) row->rbp = RBP_SAME;
        if (number == DWARF_RIP) row->rip = RIP_UNKNOWN;
        break;
      case 0x09: /* DW_CFA_register */
        set_unknown(row, read_unsigned(&cursor));
        read_unsigned(&cursor);
        break;
      case 0x0A: /* DW_CFA_remember_state */
        if (remembered_rows == MAX_REMEMBERED) return false;
        remembered[remembered_rows++] = *row;
        break;
      case 0x0B: /* DW_CFA_restore_state */
        if (remembered_rows == 0) return false;
        *row = remembered[--remembered_rows];
        break;
      case 0x0C: /* DW_CFA_def_cfa */
      case 0x12: /* DW_CFA_def_cfa_sf */
        row->cfa = CFA_REGISTER;
        row->cfa_register = read_unsigned(&cursor);
        row->cfa_offset = instruction == 0x0C ? (int64_t)read_unsigned(&cursor)
                                              : read_signed(&cursor) * cie->data_alignment;
        break;
      case 0x0D: /* DW_CFA_def_cfa_register */
        row->cfa = CFA_REGISTER;
        row->cfa_register = read_unsigned(&cursor);
        break;
      case 0x0E: /* DW_CFA_def_cfa_offset */
        row->cfa_offset = (int64_t)read_unsigned(&cursor);
        break;
      case 0x13: /* DW_CFA_def_cfa_offset_sf */
        row->cfa_offset = read_signed(&cursor) * cie->data_alignment;
        break;
      case 0x0F: /* DW_CFA_def_cfa_expression */
        row->cfa = CFA_UNKNOWN;
        if (read_expression(&cursor, &row->cfa_register, &row->cfa_offset, &is_loaded)) {
          row->cfa = is_loaded ? CFA_LOADED : CFA_REGISTER;
        }
        break;
      case 0x10: { /* DW_CFA_expression */
        uint64_t base;
        number = read_unsigned(&cursor);
        set_unknown(row, number);
        if (read_expression(&cursor, &base, &offset, &is_loaded) && !is_loaded && base == DWARF_RBP &&
            number == DWARF_RBP) {
          row->rbp = RBP_AT_RBP;
          row->rbp_offset = offset;
        }
        break;
      }
      case 0x14: /* DW_CFA_val_offset */
        set_unknown(row, read_unsigned(&cursor));
        read_unsigned(&cursor);
        break;
      case 0x15: /* DW_CFA_val_offset_sf */
        set_unknown(row, read_unsigned(&cursor));
        read_signed(&cursor);
        break;
      case 0x16: { /* DW_CFA_val_expression */
        set_unknown(row, read_unsigned(&cursor));
        const uint64_t bytes = read_unsigned(&cursor);
        if (bytes > (uint64_t)(cursor.end - cursor.at)) return false;
        cursor.at += bytes;
        break;
      }
      case 0x2E: /* DW_CFA_GNU_args_size */
        read_unsigned(&cursor);
        break;
      default:
        return false;
    }
  }
  return true;
}

static uint64_t rule_of_row(const struct cfi_row* row) {
  const uint64_t ends = RULE_IS_SET | RULE_ENDS;
  if (row->rip != RIP_BELOW_CFA || row->rbp == RBP_UNKNOWN || row->cfa == CFA_UNKNOWN) return ends;
  if (row->cfa_register != DWARF_RBP && row->cfa_register != DWARF_RSP) return ends;
  if (row->cfa_offset != (int64_t)((uint64_t)row->cfa_offset << 40) >> 40) return ends;
  if (row->rbp_offset != (int32_t)row->rbp_offset) return ends;
  return RULE_IS_SET | (row->cfa_register == DWARF_RBP ? RULE_CFA_BY_RBP : 0) |
         (row->cfa == CFA_LOADED ? RULE_CFA_IS_LOADED : 0) | (row->rbp == RBP_AT_CFA ? RULE_RBP_AT_CFA : 0) |
         (row->rbp == RBP_AT_RBP ? RULE_RBP_AT_RBP : 0) |
         ((uint64_t)row->cfa_offset & 0xFFFFFF) << RULE_CFA_SHIFT |
         (uint64_t)(uint32_t)row->rbp_offset << RULE_RBP_SHIFT;
}

/* The rule of the tables that begin with this .eh_frame_hdr. */
static uint64_t rule_in(const uint8_t* header, uintptr_t address) {
  const uint64_t ends = RULE_IS_SET | RULE_ENDS;
  struct entry {
    int32_t begin;
    int32_t description;
  };
  /* Version, encodings of the pointer to .eh_frame, of the count, of the table: as every linker writes them.
   */
  if (header[0] != 1 || encoded_bytes(header[1]) != 4 || header[2] != DW_EH_PE_udata4 ||
      header[3] != DW_EH_PE_datarel_sdata4) {
    return ends;
  }
  uint32_t count;
  memcpy(&count, header + 8, sizeof count);
  const struct entry* entries = (const struct entry*)(const void*)(header + 12);
  const int64_t wanted = (int64_t)(address - (uintptr_t)header);
  uint32_t first = 0;
  while (count > 0) { /* The first entry that begins behind it: ours is the one before. */
    const uint32_t half = count / 2;
    if (entries[first + half].begin <= wanted) {
      first += half + 1;
      count -= half + 1;
    } else {
      count = half;
    }
  }
  if (first == 0) return ends;
  const struct entry* entry = &entries[first - 1];
  const uint8_t* description = header + entry->description;
  const uint64_t target = (uint64_t)(wanted - entry->begin);
  uint32_t length;
  uint32_t to_cie;
  memcpy(&length, description, sizeof length);
  memcpy(&to_cie, description + 4, sizeof to_cie);
  struct cie cie;
  if (length == 0 || length == UINT32_MAX || !read_cie(description + 4 - to_cie, &cie)) return ends;
  struct cursor cursor = {description + 8, description + 4 + length};
  read_bytes(&cursor, cie.pointer_bytes);
  if (target >= read_bytes(&cursor, cie.pointer_bytes)) return ends;
  if (cie.is_signal) return RULE_IS_SET | RULE_IS_SIGNAL;
  if (cie.has_augmentation) {
    const uint64_t bytes = read_unsigned(&cursor);
    cursor.at += bytes;
  }
  struct cfi_row row = {.cfa = CFA_UNKNOWN, .rbp = RBP_SAME, .rip = RIP_UNKNOWN};
  if (!run_instructions(&cie, cie.instructions, UINT64_MAX, &row, &row)) return ends;
  const struct cfi_row initial = row;
  if (!run_instructions(&cie, cursor, target, &initial, &row)) return ends;
  return rule_of_row(&row);
}

/* ---- The cache of rules ----------------------------------------------------------------------------- */

#define RULES_BITS 14 /* 256 KiB: a large program calls malloc through some thousand places. */
#define HASH_FACTOR UINT64_C(0x9E3779B97F4A7C15)

/* The key is address xor rule, so that a pair whose halves two threads wrote is no entry of any address. */
static struct {
  uint64_t key;
  uint64_t rule;
} rules[1 << RULES_BITS];

static __attribute__((noinline)) uint64_t find_rule(uintptr_t address, size_t slot) {
  struct dl_find_object found;
  if (_dl_find_object((void*)address, &found) != 0) return RULE_IS_SET | RULE_ENDS; /* Made at run time. */
  const uint64_t rule = found.dlfo_eh_frame == NULL ? RULE_IS_SET | RULE_ENDS
                                                    : rule_in((const uint8_t*)found.dlfo_eh_frame, address);
  __atomic_store_n(&rules[slot].key, address ^ rule, __ATOMIC_RELAXED);
  __atomic_store_n(&rules[slot].rule, rule, __ATOMIC_RELAXED);
  return rule;
}

static inline uint64_t rule_of(uintptr_t address) {
  const size_t slot = (size_t)((address * HASH_FACTOR) >> (64 - RULES_BITS));
  const uint64_t rule = __atomic_load_n(&rules[slot].rule, __ATOMIC_RELAXED);
  if (__builtin_expect((__atomic_load_n(&rules[slot].key, __ATOMIC_RELAXED) ^ rule) == address && rule != 0,
                       1))
    return rule;
  return find_rule(address, slot);
}

/* After a library was unloaded another one may stand where it stood. */
static void forget_rules(void) {
  for (size_t slot = 0; slot < sizeof rules / sizeof *rules; ++slot) {
    __atomic_store_n(&rules[slot].rule, 0, __ATOMIC_RELAXED);
  }
}

/* ---- The walk --------------------------------------------------------------------------------------- */

#define STACK_PAGE_BITS 12
#define STACK_COUNT_BITS 28

/* Pages in a row that this thread found readable: the first one's number, and how many. One word, because a
 * signal handler on a stack of its own may come in between. Tables may be wrong (assembly without them leaves
 * anything in rbp), and the program must not die of that. */
static _Thread_local uint64_t readable_pages __attribute__((tls_model("initial-exec")));

static __attribute__((noinline)) bool look_at_page(uint64_t page) {
  const int kept_errno = errno;
  /* The kernel copies the set before it finds the first argument wrong: EFAULT or EINVAL. */
  const bool is_readable =
      syscall(SYS_rt_sigprocmask, -1, page << STACK_PAGE_BITS, NULL, 8) == 0 || errno != EFAULT;
  errno = kept_errno;
  if (!is_readable) return false;
  const uint64_t known = readable_pages;
  const uint64_t first = known >> STACK_COUNT_BITS;
  const uint64_t count = known & ((UINT64_C(1) << STACK_COUNT_BITS) - 1);
  if (page == first + count) {
    readable_pages = known + 1;
  } else if (page + 1 == first) {
    readable_pages = page << STACK_COUNT_BITS | (count + 1);
  } else {
    readable_pages = page << STACK_COUNT_BITS | 1;
  }
  return true;
}

/* Reads the word at an aligned address; false where nothing can be read. */
static inline bool load(uintptr_t address, uintptr_t* value) {
  const uint64_t known = readable_pages;
  const uint64_t page = address >> STACK_PAGE_BITS;
  if ((address & (sizeof(uintptr_t) - 1)) != 0 || address >> 47 != 0) return false;
  if (__builtin_expect(
          page - (known >> STACK_COUNT_BITS) >= (known & ((UINT64_C(1) << STACK_COUNT_BITS) - 1)), 0) &&
      !look_at_page(page)) {
    return false;
  }
  *value = *(const uintptr_t*)address;
  return true;
}

/* Where a walk stood: the registers in one frame. */
struct place {
  uintptr_t address;
  uintptr_t rsp;
  uintptr_t rbp;
};

/* Moves on to the caller. `slot` is where its rbp was loaded from, or its return address where it was not;
 * false at the end. `is_exact` says of the caller's address that it is no return address, but interrupted. */
static inline bool step(uint64_t rule, struct place* at, uintptr_t* slot, bool* is_exact) {
  *is_exact = false;
  if (__builtin_expect((rule & RULE_IS_SIGNAL) != 0, 0)) {
    const uintptr_t frame = at->rsp;
    *is_exact = true;
    return load(frame + SIGNAL_RBP, &at->rbp) && load(frame + SIGNAL_RIP, &at->address) &&
           load(frame + SIGNAL_RSP, &at->rsp) && at->address != 0;
  }
  if ((rule & RULE_ENDS) != 0) return false;
  uintptr_t cfa = ((rule & RULE_CFA_BY_RBP) != 0 ? at->rbp : at->rsp) +
                  (uintptr_t)((int64_t)(rule << (64 - RULE_CFA_SHIFT - 24)) >> 40);
  if (__builtin_expect((rule & RULE_CFA_IS_LOADED) != 0, 0) && !load(cfa, &cfa)) return false;
  uintptr_t return_address;
  if (cfa <= at->rsp || !load(cfa - sizeof(uintptr_t), &return_address) || return_address == 0) return false;
  *slot = cfa - sizeof(uintptr_t);
  if ((rule & (RULE_RBP_AT_CFA | RULE_RBP_AT_RBP)) != 0) {
    *slot = ((rule & RULE_RBP_AT_CFA) != 0 ? cfa : at->rbp) + (uintptr_t)((int64_t)rule >> RULE_RBP_SHIFT);
    if (!load(*slot, &at->rbp)) return false;
  }
  at->rsp = cfa;
  at->address = return_address - 1;
  return true;
}

/* The frames that the last walk of this thread went through: most of them are still there at the next one,
 * and whether they are is quicker to see than to find out again, because no load waits for another one. From
 * a frame in the same place all that a walk reads is the callers' return addresses and what they saved of
 * rbp. */
#define REMEMBERED_FRAMES 32 /* Of the innermost: a thread may have a stack of 16 KiB, in which they lie. */
struct walked {
  struct place at;
  uintptr_t slot; /* As step() said, with what stood there. */
  uintptr_t slot_value;
};
static _Thread_local struct {
  struct walked frames[2][REMEMBERED_FRAMES];
  size_t count;
  unsigned newest;
  bool is_busy; /* A signal handler walks without it. */
  uint64_t generation;
} last_walk __attribute__((tls_model("initial-exec")));

static inline bool is_at(const struct walked* frame, const struct place* at) {
  return frame->at.rsp == at->rsp && frame->at.address == at->address && frame->at.rbp == at->rbp;
}

static inline bool still_follows(const struct walked* frame) {
  return *(const uintptr_t*)(frame->at.rsp - sizeof(uintptr_t)) == frame->at.address + 1 &&
         *(const uintptr_t*)frame->slot == frame->slot_value;
}

/* Whether all that a frame of the last walk refers to lies in pages that this thread can read. */
static inline bool is_readable(uintptr_t address) {
  const uint64_t pages = readable_pages;
  return (address >> STACK_PAGE_BITS) - (pages >> STACK_COUNT_BITS) <
         (pages & ((UINT64_C(1) << STACK_COUNT_BITS) - 1));
}

static uint64_t hash_of(const uintptr_t* addresses, size_t count, uint64_t seed) {
  uint64_t lanes[4] = {seed, count, 0, 0}; /* Four, so that multiplications overlap. */
  for (size_t i = 0; i < count; ++i) {
    uint64_t* lane = &lanes[i % 4];
    *lane = (*lane ^ addresses[i]) * HASH_FACTOR;
    *lane ^= *lane >> 29;
  }
  uint64_t hash = 0;
  for (size_t i = 0; i < 4; ++i) hash = (hash ^ lanes[i] ^ lanes[i] >> 32) * HASH_FACTOR;
  return hash ^ hash >> 32;
}

/* Puts the addresses of the calls that led here, innermost first, at most `limit`; returns how many. `entry`
 * is
 * __builtin_frame_address(0) of the function that the program called; `generation` is another one after a
 * library was unloaded. An address lies within its call instruction, so that it stands for the line of the
 * call; that of an interrupted instruction is exact. Signal trampolines are left out. */
static size_t walk_stack(const void* entry, uintptr_t* addresses, size_t limit, uint64_t generation) {
  const uintptr_t* words = entry;
  struct place at = {.address = words[1] - 1, .rsp = (uintptr_t)(words + 2), .rbp = words[0]};
  uintptr_t slot = at.rsp - sizeof(uintptr_t);
  const bool keeps = !last_walk.is_busy;
  last_walk.is_busy = true;
  __atomic_signal_fence(__ATOMIC_ACQ_REL);
  const struct walked* old = last_walk.frames[last_walk.newest];
  struct walked* new = last_walk.frames[1 - last_walk.newest];
  const size_t old_count = keeps && last_walk.generation == generation ? last_walk.count : 0;
  size_t old_at = 0;
  size_t kept = 0;
  size_t count = 0;
  size_t signals = 0;
  bool is_memorable = keeps; /* What lies behind a frame that is found in another way is not. */
  bool is_exact = false;
  while (count + signals < limit) {
    is_memorable = is_memorable && kept < REMEMBERED_FRAMES;
    if (is_memorable) {
      while (old_at < old_count && old[old_at].at.rsp < at.rsp) ++old_at;
      if (old_at < old_count && is_at(&old[old_at], &at) && is_readable(old[old_count - 1].at.rsp)) {
        for (;;) {
          addresses[count++] = old[old_at].at.address;
          new[kept++] = old[old_at];
          if (count + signals >= limit || kept == REMEMBERED_FRAMES || old_at + 1 == old_count ||
              !still_follows(&old[old_at + 1])) {
            break;
          }
          ++old_at;
        }
        if (count + signals >= limit) break;
        at = old[old_at].at;
      } else {
        addresses[count++] = at.address;
        new[kept++] = (struct walked){at, slot, *(const uintptr_t*)slot};
      }
    } else {
      addresses[count++] = at.address;
    }
    uint64_t rule = rule_of(at.address);
    for (;;) {
      if ((rule & (RULE_IS_SIGNAL | RULE_CFA_IS_LOADED)) != 0) is_memorable = false;
      if (!step(rule, &at, &slot, &is_exact)) goto done;
      rule = rule_of(at.address);
      if ((rule & RULE_IS_SIGNAL) == 0) break;
      if (count + ++signals >= limit) goto done; /* So that a chain that leads in a circle ends. */
    }
  }
done:
  if (keeps) {
    last_walk.newest = 1 - last_walk.newest;
    last_walk.count = kept;
    last_walk.generation = generation;
    __atomic_signal_fence(__ATOMIC_ACQ_REL);
    last_walk.is_busy = false;
  }
  return count;
}
