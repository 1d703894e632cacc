/* The library that a recorded program is started with (LD_PRELOAD): notes every allocation and every free.
 *
 * One global counter hands out places in one shared file mapping, so that the file is in true order whatever
 * the threads do: a free takes its place before the allocator sees it, an allocation once it has its address.
 * Nothing here locks, allocates or is a cancellation point, so that signal handlers may allocate. raw.h is
 * the file's format; recorder.py starts the program and convert.hpp reads the file. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "raw.h"

#if RAW_CAN_RECORD_SITES
#include "stacks.h"
#include "unwind.h"
#endif

#define EXPORT __attribute__((visibility("default")))
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)

/* Where to write; with the second variable, children and executed images record to files of their own; with
 * the third, every allocation's stack is kept, down to as many frames as it says. */
#define OUTPUT_VARIABLE "HARNESS_RECORD_OUTPUT="
#define FOLLOW_VARIABLE "HARNESS_RECORD_FOLLOW="
#define FRAMES_VARIABLE "HARNESS_RECORD_FRAMES="
#define PRELOAD_VARIABLE "LD_PRELOAD="

/* Disk space is reserved in steps of the file's size between these two. */
#define MIN_STEP_BYTES (UINT64_C(1) << 20)
#define MAX_STEP_BYTES (UINT64_C(16) << 20)
/* The clock is read again when the processor's counter has gone on by this much: with a counter of 1 GHz or
 * more, times are at most a microsecond old (recorder.py says so in the trace), for a third of the cost. */
#define CLOCK_TICKS 1000

/* So much of the file's own size stays free on its disk: the trace made of it takes about a sixth. */
#define FREE_SHARE 4
/* Address space for the file: 45 thousand million events, of which only what is used costs memory. */
#define MAX_WINDOW_BYTES (UINT64_C(1) << 40)
/* Of a limited address space the program keeps all but one part in this many. */
#define WINDOW_SHARE 8

/* ---- The allocator behind us ------------------------------------------------------------------------ */

static struct {
  void* (*malloc)(size_t);
  void* (*calloc)(size_t, size_t);
  void* (*realloc)(void*, size_t);
  void (*free)(void*);
  int (*posix_memalign)(void**, size_t, size_t);
  void* (*aligned_alloc)(size_t, size_t);
  void* (*memalign)(size_t, size_t);
  void* (*valloc)(size_t);
  void* (*pvalloc)(size_t);
  int (*dlclose)(void*);
} real;

static bool resolved;
static bool resolving;

/* What dlsym itself allocates while we look for malloc comes from here and is never given back. */
static _Alignas(16) char arena[1 << 16];
static size_t arena_used_bytes;

struct arena_block {
  _Alignas(16) size_t bytes;
};

static void* arena_take(size_t bytes) {
  const size_t taken = sizeof(struct arena_block) + ((bytes + 15) & ~(size_t)15);
  if (bytes > sizeof arena) return NULL;
  const size_t at = __atomic_fetch_add(&arena_used_bytes, taken, __ATOMIC_RELAXED);
  if (at + taken > sizeof arena) return NULL;
  struct arena_block* block = (struct arena_block*)(void*)(arena + at);
  block->bytes = bytes;
  return block + 1;
}

static bool in_arena(const void* pointer) { return (uintptr_t)pointer - (uintptr_t)arena < sizeof arena; }

static void resolve(void) {
  if (resolving) return;
  resolving = true;
  const int kept_errno = errno;
  /* POSIX lets a data pointer from dlsym be a function; ISO C asks for the copy. */
#define RESOLVE(name)                         \
  do {                                        \
    void* found = dlsym(RTLD_NEXT, #name);    \
    memcpy(&real.name, &found, sizeof found); \
  } while (0)
  RESOLVE(free);
  RESOLVE(calloc);
  RESOLVE(realloc);
  RESOLVE(posix_memalign);
  RESOLVE(aligned_alloc);
  RESOLVE(memalign);
  RESOLVE(valloc);
  RESOLVE(pvalloc);
  RESOLVE(dlclose);
  RESOLVE(malloc);
#undef RESOLVE
  errno = kept_errno;
  __atomic_store_n(&resolved, true, __ATOMIC_RELEASE);
}

/* False only within resolve() itself. */
static inline bool ready(void) {
  if (UNLIKELY(!__atomic_load_n(&resolved, __ATOMIC_ACQUIRE))) {
    resolve();
    return __atomic_load_n(&resolved, __ATOMIC_ACQUIRE);
  }
  return true;
}

/* ---- The session: one raw file of one process ------------------------------------------------------- */

enum phase { PHASE_UNSTARTED, PHASE_RECORDING, PHASE_OFF };

/* The kernel clears this page in a forked child (MADV_WIPEONFORK), raw clone included: the child finds no
 * records to write to and never touches its parent's file. A vfork child shares it, as it shares the heap. */
struct wiped_page {
  uint64_t* records; /* Null: not recording. */
};

static struct wiped_page unmapped_page;
static struct wiped_page* wiped = &unmapped_page;

static struct {
  int phase;
  bool starting;
  bool follow;
  char output[PATH_MAX]; /* Without the suffix .parquet. */
  const char* suffix;
  char raw_path[PATH_MAX];
  dev_t device;
  ino_t inode;
  int fd; /* The program may close or replace it: looked at before every use. */
  struct raw_header* header;
  uint64_t window_bytes;
  uint64_t record_words;
  size_t max_frames; /* Of a stack; 0: none is kept. */
  pthread_key_t thread_key;
  bool has_thread_key;
} session = {.fd = -1};

/* Written by every event of every thread: each alone on its cache line. */
static _Alignas(128) uint64_t next_position;
static _Alignas(128) uint64_t reserved_bytes;
static _Alignas(128) uint32_t next_thread;
/* Changes with every session, so that a forked child's threads are numbered anew. */
static _Alignas(128) uint64_t session_number;

static _Thread_local struct {
  uint64_t session_number;
  uint64_t clock_ticks; /* When the clock was read last, and what it said. */
  uint64_t clock_ns;
  uint32_t thread;
  bool ended;
} self __attribute__((tls_model("initial-exec")));

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t event_time_ns(void) {
#ifdef __x86_64__
  /* Another processor's counter may be behind: the difference is huge then, and the clock is read. */
  const uint64_t ticks = __builtin_ia32_rdtsc();
  if (ticks - self.clock_ticks >= CLOCK_TICKS) {
    self.clock_ns = now_ns();
    self.clock_ticks = ticks;
  }
  return self.clock_ns;
#else
  return now_ns();
#endif
}

static char* append(char* at, const char* end, const char* text) {
  while (*text != '\0' && at < end - 1) *at++ = *text++;
  *at = '\0';
  return at;
}

static char* append_number(char* at, const char* end, uint64_t number) {
  char digits[24];
  size_t first = sizeof digits - 1;
  digits[first] = '\0';
  do {
    digits[--first] = (char)('0' + number % 10);
    number /= 10;
  } while (number != 0);
  return append(at, end, digits + first);
}

/* System calls without the wrappers of libc that are cancellation points: malloc is none. */
static int open_file(const char* path, int flags) {
  return (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0600);
}

static bool is_raw_file(int fd) {
  struct stat found;
  return fd >= 0 && fstat(fd, &found) == 0 && found.st_dev == session.device && found.st_ino == session.inode;
}

/* The descriptor lives high up, where it is in no program's way. */
static int move_high(int fd) {
  struct rlimit limit;
  int lowest = 992;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < 1024) {
    lowest = limit.rlim_cur > 64 ? (int)limit.rlim_cur - 32 : 3;
  }
  const int moved = (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, lowest);
  if (moved < 0) return fd;
  syscall(SYS_close, fd);
  return moved;
}

static void stop(enum raw_stop reason) {
  session.header->stopped = (uint32_t)reason;
  __atomic_store_n(&session.phase, PHASE_OFF, __ATOMIC_RELEASE);
  __atomic_store_n(&wiped->records, NULL, __ATOMIC_RELEASE);
}

/* Makes sure that the file has disk space up to `needed`; otherwise recording stops here. Several threads may
 * be in it at once, and a signal handler over any of them: reserving twice does no harm. */
static bool reserve(uint64_t needed) {
  uint64_t reserved = __atomic_load_n(&reserved_bytes, __ATOMIC_ACQUIRE);
  if (needed <= reserved) return true;
  if (needed > session.window_bytes) {
    stop(RAW_WINDOW_FULL);
    return false;
  }
  const int kept_errno = errno;
  if (!is_raw_file(session.fd)) {
    session.fd = -1;
    const int fd = open_file(session.raw_path, O_RDWR);
    if (!is_raw_file(fd)) {
      if (fd >= 0) syscall(SYS_close, fd);
      stop(RAW_FILE_LOST);
      errno = kept_errno;
      return false;
    }
    session.fd = move_high(fd);
  }
  uint64_t step = reserved < MIN_STEP_BYTES ? MIN_STEP_BYTES : reserved;
  if (step > MAX_STEP_BYTES) step = MAX_STEP_BYTES;
  struct rlimit limit;
  /* Beyond RLIMIT_FSIZE the kernel would send the program a signal. */
  uint64_t most = session.window_bytes;
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < most) most = limit.rlim_cur;
  if (needed > most) {
    stop(RAW_FILE_LIMIT);
    errno = kept_errno;
    return false;
  }
  struct statfs disk;
  if (fstatfs(session.fd, &disk) == 0 &&
      (uint64_t)disk.f_bavail * (uint64_t)disk.f_bsize < step + needed / FREE_SHARE) {
    stop(RAW_DISK_FULL);
    errno = kept_errno;
    return false;
  }
  for (;;) {
    uint64_t target = needed + step < most ? needed + step : most;
    if (syscall(SYS_fallocate, session.fd, 0, (off_t)reserved, (off_t)(target - reserved)) == 0) {
      while (reserved < target && !__atomic_compare_exchange_n(&reserved_bytes, &reserved, target, false,
                                                               __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
      }
      break;
    }
    /* A timer may interrupt a long step again and again: the next try is a shorter one. */
    if (errno != EINTR || step < RAW_HEADER_BYTES) {
      stop(RAW_DISK_FULL);
      errno = kept_errno;
      return false;
    }
    step /= 2;
  }
  errno = kept_errno;
  return true;
}

/* thread_end comes in the last round of destructors, so that what the others free is still this thread's. */
static void thread_destructor(void* round);

static void read_command_line(struct raw_header* header) {
  const int fd = open_file("/proc/self/cmdline", O_RDONLY);
  if (fd < 0) return;
  const long got = syscall(SYS_read, fd, header->command, sizeof header->command - 1);
  if (got > 0) header->command_bytes = (uint32_t)got;
  syscall(SYS_close, fd);
}

/* The variable's value in the environment, or null. getenv would do, but the caller edits in place. */
static char** variable(const char* name_and_equals) {
  const size_t bytes = strlen(name_and_equals);
  for (char** entry = environ; entry != NULL && *entry != NULL; ++entry) {
    if (strncmp(*entry, name_and_equals, bytes) == 0) return entry;
  }
  return NULL;
}

static void remove_variable(char** entry) {
  if (entry == NULL) return;
  do {
    entry[0] = entry[1];
  } while (*entry++ != NULL);
}

/* What the program starts is not recorded: our variables go, and our name at the head of LD_PRELOAD. */
static void clean_environment(void) {
  remove_variable(variable(OUTPUT_VARIABLE));
  remove_variable(variable(FOLLOW_VARIABLE));
  remove_variable(variable(FRAMES_VARIABLE));
  char** preload = variable(PRELOAD_VARIABLE);
  if (preload == NULL) return;
  char* value = *preload + strlen(PRELOAD_VARIABLE);
  const char* rest = strchr(value, ':');
  if (rest == NULL) {
    remove_variable(preload);
  } else {
    memmove(value, rest + 1, strlen(rest + 1) + 1);
  }
}

static void read_max_frames(void) {
  session.record_words = RAW_WORDS;
#if RAW_CAN_RECORD_SITES
  char** entry = variable(FRAMES_VARIABLE);
  if (entry == NULL || !make_known_stacks()) return;
  size_t frames = 0;
  for (const char* digit = *entry + strlen(FRAMES_VARIABLE); *digit >= '0' && *digit <= '9'; ++digit) {
    frames = frames * 10 + (size_t)(*digit - '0');
    if (frames > RAW_MAX_FRAMES) frames = RAW_MAX_FRAMES;
  }
  session.max_frames = frames;
  if (frames > 0) session.record_words = RAW_WORDS_WITH_SITE;
#endif
}

static bool read_environment(void) {
  char** entry = variable(OUTPUT_VARIABLE);
  if (entry == NULL) return false;
  const char* output = *entry + strlen(OUTPUT_VARIABLE);
  const size_t bytes = strlen(output);
  if (bytes >= sizeof session.output) return false;
  memcpy(session.output, output, bytes + 1);
  session.suffix = ".raw";
  const size_t ending_bytes = strlen(".parquet");
  if (bytes > ending_bytes && strcmp(output + bytes - ending_bytes, ".parquet") == 0) {
    session.output[bytes - ending_bytes] = '\0';
    session.suffix = ".parquet.raw";
  }
  session.follow = variable(FOLLOW_VARIABLE) != NULL;
  read_max_frames();
  if (!session.follow) clean_environment();
  return true;
}

/* OUT.raw for the first image; OUT.PID.raw, OUT.PID.1.raw ... for forked children and executed images. */
static int create_file(bool is_child) {
  const char* end = session.raw_path + sizeof session.raw_path;
  for (unsigned attempt = is_child ? 1 : 0; attempt < 1000; ++attempt) {
    char* at = append(session.raw_path, end, session.output);
    if (attempt > 0) {
      at = append(at, end, ".");
      at = append_number(at, end, (uint64_t)syscall(SYS_getpid));
    }
    if (attempt > 1) {
      at = append(at, end, ".");
      at = append_number(at, end, attempt - 1);
    }
    append(at, end, session.suffix);
    const int fd = open_file(session.raw_path, O_RDWR | O_CREAT | O_EXCL);
    if (fd >= 0) return fd;
    if (errno != EEXIST || !session.follow) return -1;
  }
  return -1;
}

static void* map_window(int fd) {
  uint64_t bytes = MAX_WINDOW_BYTES;
  struct rlimit limit;
  if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
      limit.rlim_cur / WINDOW_SHARE < bytes) {
    bytes = limit.rlim_cur / WINDOW_SHARE / RAW_HEADER_BYTES * RAW_HEADER_BYTES;
  }
  for (; bytes >= MIN_STEP_BYTES; bytes /= 2) {
    void* mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (mapped != MAP_FAILED) {
      session.window_bytes = bytes;
      return mapped;
    }
  }
  return NULL;
}

/* The file, its window and its header; false leaves nothing behind but, perhaps, an empty file. */
static bool open_session(bool is_child, const char* parent, uint64_t parent_records) {
  const int fd = create_file(is_child);
  struct stat created;
  if (fd < 0) return false;
  session.fd = move_high(fd);
  if (fstat(session.fd, &created) != 0) return false;
  session.device = created.st_dev;
  session.inode = created.st_ino;
  void* window = map_window(session.fd);
  if (window == NULL) return false;
  madvise(window, session.window_bytes, MADV_DONTDUMP);
  reserved_bytes = 0;
  if (syscall(SYS_fallocate, session.fd, 0, (off_t)0, (off_t)MIN_STEP_BYTES) == 0) {
    reserved_bytes = MIN_STEP_BYTES;
  } else if (errno == EOPNOTSUPP || errno == ENOSYS) {
    /* A file system that cannot reserve: the file is sparse, and a full disk costs the program SIGBUS. */
    if (syscall(SYS_ftruncate, session.fd, (off_t)session.window_bytes) != 0) return false;
    reserved_bytes = session.window_bytes;
  } else {
    return false;
  }
  if (wiped == &unmapped_page) {
    void* page = mmap(NULL, sizeof *wiped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED || madvise(page, sizeof *wiped, MADV_WIPEONFORK) != 0) return false;
    wiped = page;
  }
  if (!session.has_thread_key) {
    session.has_thread_key = pthread_key_create(&session.thread_key, thread_destructor) == 0;
  }
  struct raw_header* header = window;
  session.header = header;
  header->pid = (uint32_t)syscall(SYS_getpid);
  header->page_bytes = (uint32_t)sysconf(_SC_PAGESIZE);
  header->begin_ns = now_ns();
  header->parent_records = parent_records;
  header->record_words = (uint32_t)session.record_words;
  append(header->parent, header->parent + sizeof header->parent, parent);
  read_command_line(header);
  __atomic_store_n(&header->magic, RAW_MAGIC, __ATOMIC_RELEASE);
  next_position = 0;
  next_thread = 0;
  __atomic_store_n(&session_number, header->begin_ns, __ATOMIC_RELEASE);
  session.phase = PHASE_RECORDING;
  __atomic_store_n(&wiped->records, (uint64_t*)(void*)((char*)window + RAW_HEADER_BYTES), __ATOMIC_RELEASE);
  return true;
}

/* Called by every event that finds no records: the first one of a process, every one where nothing is to be
 * recorded, and the first one of a forked child. */
static bool start_session(void) {
  if (__atomic_load_n(&session.phase, __ATOMIC_ACQUIRE) == PHASE_OFF) return false;
  if (environ == NULL) return false; /* libc has not been initialised yet. */
  /* A signal handler that allocates meanwhile finds nothing to write to. */
  if (__atomic_exchange_n(&session.starting, true, __ATOMIC_ACQ_REL)) return false;
  const int kept_errno = errno;
  bool started = false;
  if (session.phase == PHASE_UNSTARTED) {
    started = read_environment() && open_session(false, "", 0);
  } else {
    if (is_raw_file(session.fd)) syscall(SYS_close, session.fd);
    session.fd = -1;
    if (session.follow) {
      munmap(session.header, session.window_bytes);
      char parent[RAW_NAME_BYTES];
      const char* slash = strrchr(session.raw_path, '/');
      append(parent, parent + sizeof parent, slash == NULL ? session.raw_path : slash + 1);
      started = open_session(true, parent, next_position);
    }
  }
  if (!started) __atomic_store_n(&session.phase, PHASE_OFF, __ATOMIC_RELEASE);
  __atomic_store_n(&session.starting, false, __ATOMIC_RELEASE);
  errno = kept_errno;
  return started;
}

static void enter_thread(void) {
  self.thread = __atomic_fetch_add(&next_thread, 1, __ATOMIC_RELAXED) % RAW_MAX_THREADS;
  self.ended = false;
  self.session_number = session_number;
  if (session.has_thread_key) pthread_setspecific(session.thread_key, (void*)(uintptr_t)1);
}

/* ---- One event -------------------------------------------------------------------------------------- */

static inline bool recording(void) {
  return !UNLIKELY(__atomic_load_n(&wiped->records, __ATOMIC_ACQUIRE) == NULL) || start_session();
}

/* Places for `count` records; null where recording has just ended, or began anew because a signal handler
 * forked and this is the child. */
static inline uint64_t* take_places(uint64_t count) {
  const uint64_t position = __atomic_fetch_add(&next_position, count, __ATOMIC_ACQ_REL);
  const uint64_t end_bytes = RAW_HEADER_BYTES + (position + count) * session.record_words * sizeof(uint64_t);
  if (UNLIKELY(end_bytes > __atomic_load_n(&reserved_bytes, __ATOMIC_ACQUIRE)) && !reserve(end_bytes))
    return NULL;
  uint64_t* records = __atomic_load_n(&wiped->records, __ATOMIC_ACQUIRE);
  return UNLIKELY(records == NULL) ? NULL : records + position * session.record_words;
}

static void write_record(enum raw_op op, uint32_t log2_alignment, const void* address, size_t size,
                         uint32_t site) {
  while (recording()) {
    if (UNLIKELY(self.session_number != session_number)) enter_thread();
    /* The time first: a thread that is suspended in between makes itself look early, and no other one late.
     */
    const struct raw_record record = raw_encode((struct raw_event){.op = op,
                                                                   .log2_alignment = log2_alignment,
                                                                   .thread = self.thread,
                                                                   .address = (uintptr_t)address,
                                                                   .size = size,
                                                                   .time_ns = event_time_ns()});
    uint64_t* place = take_places(1);
    if (UNLIKELY(place == NULL)) continue;
    place[1] = record.word[1];
    place[2] = record.word[2];
    if (site != 0) place[3] = site;
    __atomic_store_n(&place[0], record.word[0], __ATOMIC_RELEASE);
    return;
  }
}

static inline void note(enum raw_op op, uint32_t log2_alignment, const void* address, size_t size,
                        uint32_t site) {
  write_record(op, log2_alignment, address, size, site);
  /* What comes after the thread's end (libc frees a little) is a thread of its own, which ends at once. */
  if (UNLIKELY(self.ended)) write_record(RAW_THREAD_END, 0, NULL, 0, 0);
}

/* ---- Sites ------------------------------------------------------------------------------------------ */

#if RAW_CAN_RECORD_SITES

/* Writes two runs of bytes as one chain; false where recording has ended. */
static bool write_chain(enum raw_op op, uint32_t number, const void* head, size_t head_bytes,
                        const void* tail, size_t tail_bytes) {
  const size_t bytes = head_bytes + tail_bytes;
  const uint64_t count = (bytes + RAW_CHAIN_BYTES - 1) / RAW_CHAIN_BYTES;
  while (recording()) {
    uint64_t* place = take_places(count);
    if (place == NULL) continue;
    for (uint64_t i = 0; i < count; ++i, place += RAW_WORDS_WITH_SITE) {
      char* payload = (char*)(place + 1);
      for (size_t at = i * RAW_CHAIN_BYTES; at < (i + 1) * RAW_CHAIN_BYTES && at < bytes; ++at) {
        *payload++ = at < head_bytes ? ((const char*)head)[at] : ((const char*)tail)[at - head_bytes];
      }
      const uint64_t first_word = i == 0 ? raw_chain(op, bytes, number) : RAW_MORE;
      __atomic_store_n(&place[0], first_word, __ATOMIC_RELEASE);
    }
    return true;
  }
  return false;
}

static bool write_module(const struct dl_find_object* found) {
  struct raw_module module = {.begin = (uintptr_t)found->dlfo_map_start,
                              .end = (uintptr_t)found->dlfo_map_end,
                              .bias = found->dlfo_link_map->l_addr};
  module.build_id_bytes =
      (uint32_t)build_id_at(found->dlfo_map_start, module.end - module.begin, module.build_id);
  char path[PATH_MAX];
  const char* name = found->dlfo_link_map->l_name;
  char* at = path;
  if (name[0] == '\0') { /* The program itself. */
    const long got = syscall(SYS_readlinkat, AT_FDCWD, "/proc/self/exe", path, sizeof path - 1);
    at += got > 0 ? got : 0;
  } else {
    if (name[0] != '/' && strchr(name, '/') != NULL) {
      const long got = syscall(SYS_getcwd, path, sizeof path); /* With its zero. */
      if (got > 1 && path[0] == '/') {
        at = append(path + got - 1, path + sizeof path, "/");
      }
    }
    at = append(at, path + sizeof path, name);
  }
  return write_chain(RAW_MODULE, 0, &module, sizeof module, path, (size_t)(at - path));
}

/* Writes down a stack that nobody wrote before, and where its addresses lie; returns its number, or 0. */
static __attribute__((noinline)) uint32_t write_stack(const uintptr_t* addresses, size_t count,
                                                      uint64_t hash) {
  const int kept_errno = errno;
  uint32_t number = 0;
  const uint32_t generation = stack_generation();
  bool is_written = true;
  for (size_t i = 0; i < count && is_written; ++i) {
    struct dl_find_object found;
    if (is_known_module(addresses[i], generation)) continue;
    if (_dl_find_object((void*)addresses[i], &found) != 0) continue; /* Made at run time: it has no name. */
    is_written = write_module(&found);
    if (is_written) learn_module((uintptr_t)found.dlfo_map_start, (uintptr_t)found.dlfo_map_end, generation);
  }
  if (is_written) {
    number = next_stack_number();
    is_written = write_chain(RAW_STACK, number, addresses, count * sizeof *addresses, NULL, 0);
    /* Only now may other threads use the number: what refers to it stands behind it, whoever is killed when.
     */
    if (is_written) learn_stack(hash, number);
  }
  errno = kept_errno;
  return is_written ? number : 0;
}

static __attribute__((noinline)) uint32_t site_of(const void* entry) {
  if (!recording()) return 0;
  uintptr_t addresses[RAW_MAX_FRAMES];
  const uint32_t generation = stack_generation();
  const size_t count = walk_stack(entry, addresses, session.max_frames, generation);
  const uint64_t hash = hash_of(addresses, count, generation);
  const uint32_t known = known_stack(hash);
  return known != 0 ? known : write_stack(addresses, count, hash);
}

EXPORT int dlclose(void* library) {
  if (!ready() || real.dlclose == NULL) return -1;
  const int error = real.dlclose(library);
  if (session.max_frames != 0) {
    forget_rules();
    begin_stack_generation();
  }
  return error;
}

#else
static uint32_t site_of(const void* entry) {
  (void)entry;
  return 0;
}
#endif

/* The number of the stack above `entry`, the frame of the function that the program called; 0 for none. */
static inline uint32_t site(const void* entry) {
  if (session.max_frames != 0) return site_of(entry);
  if (UNLIKELY(session.phase == PHASE_UNSTARTED) && recording() && session.max_frames != 0)
    return site_of(entry);
  return 0;
}

static void thread_destructor(void* round) {
  const uintptr_t rounds = (uintptr_t)round;
  if (rounds < PTHREAD_DESTRUCTOR_ITERATIONS) {
    pthread_setspecific(session.thread_key, (void*)(rounds + 1));
  } else if (self.session_number == session_number && !self.ended) {
    self.ended = true;
    write_record(RAW_THREAD_END, 0, NULL, 0, 0);
  }
}

static uint32_t log2_of(size_t alignment) {
  if (alignment <= 1) return 0;
  return (uint32_t)(sizeof(size_t) * CHAR_BIT) - (uint32_t)__builtin_clzl(alignment - 1);
}

__attribute__((constructor(101))) static void initialise(void) {
  ready();
  if (__atomic_load_n(&wiped->records, __ATOMIC_ACQUIRE) == NULL) start_session();
}

/* ---- What the program calls ------------------------------------------------------------------------- */

EXPORT void* malloc(size_t size) {
  if (UNLIKELY(!ready())) return arena_take(size);
  void* address = real.malloc(size);
  if (address != NULL) note(RAW_ALLOC, 0, address, size, site(__builtin_frame_address(0)));
  return address;
}

EXPORT void* calloc(size_t count, size_t size) {
  if (UNLIKELY(!ready())) return arena_take(count * size); /* The arena is zero and never used twice. */
  void* address = real.calloc(count, size);
  if (address != NULL) note(RAW_CALLOC, 0, address, count * size, site(__builtin_frame_address(0)));
  return address;
}

EXPORT void free(void* address) {
  if (address == NULL || UNLIKELY(in_arena(address)) || UNLIKELY(!ready())) return;
  /* The allocator reads its header in front of the object: fetched while we look at the clock. */
  __builtin_prefetch((const char*)address - sizeof(size_t));
  note(RAW_FREE, 0, address, 0, 0);
  real.free(address);
}

/* `entry` is the frame of the function that the program called. */
static void* reallocate(void* old, size_t size, const void* entry) {
  if (UNLIKELY(!ready())) return old == NULL ? arena_take(size) : NULL;
  if (old == NULL || UNLIKELY(in_arena(old))) {
    void* address = real.malloc(size);
    if (address == NULL) return NULL;
    note(RAW_ALLOC, 0, address, size, site(entry));
    if (old != NULL) {
      const size_t old_bytes = ((struct arena_block*)old)[-1].bytes;
      memcpy(address, old, old_bytes < size ? old_bytes : size);
    }
    return address;
  }
  note(RAW_REALLOC_BEGIN, 0, old, 0, 0);
  void* address = real.realloc(old, size);
  note(RAW_REALLOC, 0, address, size, address == NULL ? 0 : site(entry));
  return address;
}

EXPORT void* realloc(void* old, size_t size) { return reallocate(old, size, __builtin_frame_address(0)); }

EXPORT void* reallocarray(void* old, size_t count, size_t size) {
  size_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes)) {
    errno = ENOMEM;
    return NULL;
  }
  return reallocate(old, bytes, __builtin_frame_address(0));
}

EXPORT int posix_memalign(void** address, size_t alignment, size_t size) {
  if (UNLIKELY(!ready())) return ENOMEM;
  const int error = real.posix_memalign(address, alignment, size);
  if (error == 0 && *address != NULL)
    note(RAW_ALLOC, log2_of(alignment), *address, size, site(__builtin_frame_address(0)));
  return error;
}

EXPORT void* aligned_alloc(size_t alignment, size_t size) {
  if (UNLIKELY(!ready())) return NULL;
  void* address = real.aligned_alloc(alignment, size);
  if (address != NULL) note(RAW_ALLOC, log2_of(alignment), address, size, site(__builtin_frame_address(0)));
  return address;
}

EXPORT void* memalign(size_t alignment, size_t size) {
  if (UNLIKELY(!ready())) return NULL;
  void* address = real.memalign(alignment, size);
  if (address != NULL) note(RAW_ALLOC, log2_of(alignment), address, size, site(__builtin_frame_address(0)));
  return address;
}

EXPORT void* valloc(size_t size) {
  if (UNLIKELY(!ready())) return NULL;
  void* address = real.valloc(size);
  if (address != NULL)
    note(RAW_ALLOC, log2_of((size_t)sysconf(_SC_PAGESIZE)), address, size, site(__builtin_frame_address(0)));
  return address;
}

EXPORT void* pvalloc(size_t size) {
  if (UNLIKELY(!ready())) return NULL;
  void* address = real.pvalloc(size);
  if (address != NULL)
    note(RAW_ALLOC, log2_of((size_t)sysconf(_SC_PAGESIZE)), address, size, site(__builtin_frame_address(0)));
  return address;
}

/* C23; the size is a promise of the caller's that the record of the allocation makes already. */
EXPORT void free_sized(void* address, size_t size);
EXPORT void free_sized(void* address, size_t size) {
  (void)size;
  free(address);
}

EXPORT void free_aligned_sized(void* address, size_t alignment, size_t size);
EXPORT void free_aligned_sized(void* address, size_t alignment, size_t size) {
  (void)alignment;
  (void)size;
  free(address);
}
