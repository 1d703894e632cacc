// What changed in TCMalloc between releases 2.10 and 2.18, as questions that the tiers ask.
//
// Each threshold is the first release whose source has the newer behaviour.
#pragma once

namespace tcmalloc {

struct Version {
  int minor = 18;  // Of 2.x.

  // The record of a growth is taken from the metadata when the page heap is unlocked, after the new span;
  // before, it came first.
  bool records_growth_at_unlock() const { return minor >= 11; }
  // MallocExtension::MarkThreadTemporarilyIdle deletes the cache as MarkThreadIdle does; before, it emptied
  // it.
  bool deletes_temporarily_idle_cache() const { return minor >= 11; }
  // No MallocExtension object is allocated at start any more.
  bool starts_without_extension_object() const { return minor >= 14; }
  // The main thread keeps the cache that its first allocation made; before, that one was orphaned and a
  // second one made. In exchange, an entry for threads without thread-local storage takes some metadata.
  bool keeps_first_cache() const { return minor >= 16; }
  // The property tcmalloc.min_per_thread_cache_bytes exists; before, it was a constant.
  bool has_minimum_property() const { return minor >= 16; }
  // Of the best large spans, the returned one is taken only if it is shorter than the normal one; before,
  // also if both have one length and it lies lower.
  bool prefers_normal_large_span() const { return minor >= 17; }
  // realloc keeps the block exactly if the new size would get one of the same size; before, if it filled at
  // least half of it.
  bool reallocates_by_size_class() const { return minor >= 18; }
};

}  // namespace tcmalloc
