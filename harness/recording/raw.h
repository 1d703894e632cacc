/* The raw file of a recording: what preload.c writes inside the program and convert.hpp reads afterwards.
 *
 * A header of one page, then records of 24 bytes in the one true order of all threads: a free takes its place
 * before the allocator sees it, an allocation after. The first word of a record is stored last, so a zero
 * there is a place that was taken and never written. With sites a record has 32 bytes, the last eight of an
 * allocation's being its stack's number; stacks and the modules that their addresses lie in stand among the
 * records, before the first one that needs them. Read by C and C++ alike; all fields in the machine's byte
 * order. */
#pragma once

#include <features.h>
#include <stdint.h>

/* Whether stacks can be walked here: unwind.h knows one kind of processor and needs _dl_find_object. */
#if defined(__x86_64__) && defined(__GLIBC_PREREQ)
#if __GLIBC_PREREQ(2, 35)
#define RAW_CAN_RECORD_SITES 1
#endif
#endif
#ifndef RAW_CAN_RECORD_SITES
#define RAW_CAN_RECORD_SITES 0
#endif

#define RAW_MAGIC UINT64_C(0x3257415248435248) /* "HRCHRAW2" */
#define RAW_HEADER_BYTES 4096
#define RAW_NAME_BYTES 256     /* NAME_MAX and a zero. */
#define RAW_COMMAND_BYTES 3072 /* What of the command line is kept. */

enum raw_op {
  RAW_ALLOC = 1,
  RAW_CALLOC = 2,
  RAW_REALLOC = 3, /* realloc has returned; address 0: it failed, or freed where size is 0 too. */
  RAW_FREE = 4,
  RAW_REALLOC_BEGIN = 5, /* realloc is about to give its old address back. */
  RAW_THREAD_END = 6,
  RAW_STACK = 7,  /* A chain: addresses of 8 bytes, innermost first. */
  RAW_MODULE = 8, /* A chain: struct raw_module and a path. */
  RAW_MORE = 9,   /* The chain goes on. */
};

/* Why a recording ended before its program did. */
enum raw_stop {
  RAW_RUNNING = 0,
  RAW_DISK_FULL = 1,
  RAW_FILE_LIMIT = 2,  /* RLIMIT_FSIZE. */
  RAW_WINDOW_FULL = 3, /* The address space that RLIMIT_AS left to the recorder. */
  RAW_FILE_LOST = 4,   /* The program closed the file and it cannot be opened again. */
};

struct raw_header {
  uint64_t magic;
  uint32_t pid;
  uint32_t page_bytes;
  uint64_t begin_ns;           /* CLOCK_MONOTONIC. */
  uint64_t parent_records;     /* Records of the parent's file that were before the fork. */
  char parent[RAW_NAME_BYTES]; /* The parent's raw file, in the same directory; empty: no forked child. */
  uint32_t stopped;            /* enum raw_stop */
  uint32_t record_words;       /* RAW_WORDS, or RAW_WORDS_WITH_SITE. */
  uint32_t command_bytes;      /* Zero-terminated arguments, the program first. */
  char command[RAW_COMMAND_BYTES];
};

/* op 8 bits, log2 of the alignment 8, thread 24, size bits 24..47 | address 48, size bits 0..15 |
 * time_ns 56, size bits 16..23. */
#define RAW_WORDS 3
#define RAW_WORDS_WITH_SITE 4
#define RAW_MAX_WORDS RAW_WORDS_WITH_SITE

struct raw_record {
  uint64_t word[RAW_WORDS];
};

/* A chain is a run of neighbouring records: op 8 bits, bytes of the whole 24, number of the stack 32 | three
 * words of it; then RAW_MORE | the next three, and so on. */
#define RAW_CHAIN_WORDS 3
#define RAW_CHAIN_BYTES (RAW_CHAIN_WORDS * 8)
#define RAW_MAX_FRAMES 128
#define RAW_BUILD_ID_BYTES 20 /* SHA-1, the longest that linkers write. */

static inline uint64_t raw_chain(uint32_t op, uint64_t bytes, uint32_t number) {
  return op | bytes << 8 | (uint64_t)number << 32;
}

/* What an address means until another module is said to be there. Its path follows, without a zero. */
struct raw_module {
  uint64_t begin;
  uint64_t end;
  uint64_t bias; /* An address less this is the address in the file's own terms. */
  uint32_t build_id_bytes;
  uint8_t build_id[RAW_BUILD_ID_BYTES];
};

struct raw_event {
  uint32_t op;
  uint32_t log2_alignment; /* 0: none was asked for. */
  uint32_t thread;         /* Ordinal of its first event, below 2^24. */
  uint64_t address;        /* Below 2^48. */
  uint64_t size;           /* Below 2^48. */
  uint64_t time_ns;        /* Below 2^56: two years. */
};

#define RAW_MAX_THREADS (UINT32_C(1) << 24)
#define RAW_48_BITS ((UINT64_C(1) << 48) - 1)
#define RAW_56_BITS ((UINT64_C(1) << 56) - 1)

static inline struct raw_record raw_encode(struct raw_event event) {
  struct raw_record record = {{(uint64_t)event.op | (uint64_t)event.log2_alignment << 8 |
                                   (uint64_t)event.thread << 16 | (event.size >> 24 & 0xFFFFFF) << 40,
                               (event.address & RAW_48_BITS) | event.size << 48,
                               (event.time_ns & RAW_56_BITS) | (event.size >> 16 & 0xFF) << 56}};
  return record;
}

static inline struct raw_event raw_decode(struct raw_record record) {
  struct raw_event event = {
      (uint32_t)(record.word[0] & 0xFF),
      (uint32_t)(record.word[0] >> 8 & 0xFF),
      (uint32_t)(record.word[0] >> 16 & 0xFFFFFF),
      record.word[1] & RAW_48_BITS,
      record.word[1] >> 48 | record.word[2] >> 56 << 16 | record.word[0] >> 40 << 24,
      record.word[2] & RAW_56_BITS,
  };
  return event;
}
