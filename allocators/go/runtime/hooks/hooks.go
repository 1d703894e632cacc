// Added to package runtime by overlay.py: lets the replayer read the heap's state without disturbing it, move
// between Ps, and hold back the two workers that the clock drives. overlay.py inserts the calls of harnessCycleStart,
// harnessGlobalsMarked, harnessMarking and harnessMarked and the tests of harnessHeldBack into copies of the runtime's own files.
//
// Nothing here allocates: words go to memory that the replayer has mapped.
package runtime

import "unsafe"

// Bits of harnessHeldBack.
const (
	harnessNoBackgroundSweep    = 1
	harnessNoBackgroundScavenge = 2
)

var harnessHeldBack uint32

//go:linkname harnessHoldBack main.harnessHoldBack
func harnessHoldBack(bits uint32) { harnessHeldBack = bits }

// harnessSettled tells whether a collection has left nothing to do: all is swept, and the background sweeper, where it
// may run, has freed the work buffers.
//
// That sweeper may have parked with buffers left: it looks for them, and then whether all is swept. Where its thread stands
// still between the two, and on another P the collection lays the buffers out and ends in that moment, it has seen none of
// them; then nobody would wake it before the next collection.
//
//go:linkname harnessSettled main.harnessSettled
func harnessSettled() bool {
	lock(&work.wbufSpans.lock)
	freed := work.wbufSpans.free.isEmpty() && work.wbufSpans.busy.isEmpty()
	unlock(&work.wbufSpans.lock)
	if !isSweepDone() {
		return false
	}
	if freed || harnessHeldBack&harnessNoBackgroundSweep != 0 {
		return true
	}
	// As gcSweep wakes it.
	lock(&sweep.lock)
	if sweep.parked {
		sweep.parked = false
		goready(sweep.g, 0)
	}
	unlock(&sweep.lock)
	return false
}

// What a cycle found: state.py (CYCLE) names the words.
const (
	harnessMaxCycles  = 1 << 14
	harnessCycleWords = 10
)

var harnessCycles [harnessMaxCycles * harnessCycleWords]uint64
var harnessCycleCount uint64

//go:nosplit
func harnessCycleStart() {
	if i := harnessCycleCount; i < harnessMaxCycles {
		harnessCycles[harnessCycleWords*i] = gcController.heapLive.Load()
		harnessCycles[harnessCycleWords*i+1] = uint64(nanotime())
	}
}

//go:nosplit
func harnessMarked() {
	if i := harnessCycleCount; i < harnessMaxCycles {
		c := &gcController
		cycle := harnessCycles[harnessCycleWords*i : harnessCycleWords*(i+1)]
		cycle[2] = c.heapLive.Load()
		cycle[3] = uint64(nanotime())
		cycle[4] = c.lastStackScan.Load()
		cycle[5] = uint64(c.heapScanWork.Load())
		cycle[6] = uint64(c.assistTime.Load())
		cycle[7] = uint64(c.fractionalMarkTime.Load() + c.dedicatedMarkTime.Load())
		cycle[8] = uint64(c.idleMarkTime.Load())
	}
	harnessCycleCount++
}

//go:nosplit
func harnessMarking() {
	if i := harnessCycleCount; i < harnessMaxCycles {
		for _, list := range [...]*mSpanList{&work.wbufSpans.free, &work.wbufSpans.busy} {
			for s := list.first; s != nil; s = s.next {
				harnessCycles[harnessCycleWords*i+9]++
			}
		}
	}
}

// How many objects were in the work buffers when the last cycle before harnessStopRecordingRoots had marked what globals
// point at, and came to the stacks: these take two buffers for themselves, and that is when most are in use.
var (
	harnessRootCycle      uint64 // The cycle that is recorded, counted from 1.
	harnessRootsRecording = true
	harnessRootWork       uint64
)

//go:linkname harnessStopRecordingRoots main.harnessStopRecordingRoots
func harnessStopRecordingRoots() { harnessRootsRecording = false }

//go:nosplit
func harnessGlobalsMarked(gcw *gcWork) {
	if !harnessRootsRecording || harnessRootCycle == harnessCycleCount+1 {
		return
	}
	harnessRootCycle = harnessCycleCount + 1
	harnessRootWork = 0
	for _, buffer := range [...]*workbuf{gcw.wbuf1, gcw.wbuf2} {
		if buffer != nil {
			harnessRootWork += uint64(buffer.nobj)
		}
	}
}

func harnessPageMarked(s *mspan) bool {
	arena, index, mask := pageIndexOf(s.base())
	return arena.pageMarks[index]&mask != 0
}

// harnessTakeCycles copies what the cycles since the last call found, and returns how many there were.
//
//go:linkname harnessTakeCycles main.harnessTakeCycles
func harnessTakeCycles(to []uint64) int {
	n := int(min(harnessCycleCount, harnessMaxCycles))
	copy(to, harnessCycles[:harnessCycleWords*n])
	clear(harnessCycles[:harnessCycleWords*n])
	harnessCycleCount = 0
	return n
}

// harnessHeapInUse returns the bytes of spans that hold objects.
//
//go:linkname harnessHeapInUse main.harnessHeapInUse
func harnessHeapInUse() uint64 { return uint64(gcController.heapInUse.load()) }

// harnessFreeScanSlots returns how many slots the spans of a size class have free for objects with pointers, and how
// large these are; 0 where there is no such span.
//
//go:linkname harnessFreeScanSlots main.harnessFreeScanSlots
func harnessFreeScanSlots(class uint8) (size uintptr, free int) {
	for _, s := range mheap_.allspans {
		if s.state.get() == mSpanInUse && s.spanclass == makeSpanClass(class, false) {
			size = s.elemsize
			free += int(s.nelems) - int(s.allocCount)
		}
	}
	return size, free
}

// Words into mapped memory; what does not fit is counted and not written.
type harnessWriter struct {
	words *[1 << 40]uint64
	count int
	room  int
}

func (w *harnessWriter) put(values ...uint64) {
	for _, v := range values {
		if w.count < w.room {
			w.words[w.count] = v
		}
		w.count++
	}
}

// reserve leaves a word for a number that is known later.
func (w *harnessWriter) reserve() int {
	at := w.count
	w.put(0)
	return at
}

func (w *harnessWriter) fill(at int, v uint64) {
	if at < w.room {
		w.words[at] = v
	}
}

func harnessBit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// harnessHeapState writes the heap's state as words and returns how many there are. state.py reads them.
//
//go:linkname harnessHeapState main.harnessHeapState
func harnessHeapState(buffer unsafe.Pointer, room int) int {
	w := harnessWriter{words: (*[1 << 40]uint64)(buffer), room: room}
	mp := acquirem()
	systemstack(func() {
		w.scalars()
		w.spans()
		w.processors()
		w.central()
		w.chunks()
	})
	releasem(mp)
	return w.count
}

func (w *harnessWriter) scalars() {
	h := &mheap_
	c := &gcController
	trigger, goal := c.trigger()
	search, _ := h.pages.scav.index.searchAddrBg.Load()
	if search == minOffAddr.addr() {
		search = 0
	}
	high := h.pages.scav.index.freeHWM.addr()
	if high == minOffAddr.addr() {
		high = 0
	}
	var finalizers uint64
	for _, s := range h.allspans {
		if s.state.get() != mSpanInUse || s.spanclass.noscan() {
			continue
		}
		for sp := s.specials; sp != nil; sp = sp.next {
			if sp.kind == _KindSpecialFinalizer {
				finalizers += uint64(s.elemsize)
			}
		}
	}
	at := w.reserve()
	first := w.count
	w.put(uint64(h.sweepgen), uint64(h.curArena.end), c.heapInUse.load(), c.heapFree.load(), c.heapReleased.load())
	w.put(c.heapLive.Load(), c.heapMarked, c.totalAlloc.Load(), c.totalFree.Load(), c.mappedReady.Load())
	w.put(trigger, goal, c.globalsScan.Load(), c.lastStackScan.Load(), c.lastHeapGoal)
	w.put(c.sweepDistMinTrigger.Load(), harnessBit(isSweepDone()), finalizers, mheap_.pagesSwept.Load(), harnessRootWork)
	w.put(scavenge.gcPercentGoal.Load(), uint64(h.pages.scav.index.gen), uint64(high), uint64(search))
	w.fill(at, uint64(w.count-first))
}

// harnessSpanKind tells what a span is for: objects 0, stacks 1, work buffers 2.
func harnessSpanKind(s *mspan) uint64 {
	if s.state.get() != mSpanManual {
		return 0
	}
	for _, list := range [...]*mSpanList{&work.wbufSpans.free, &work.wbufSpans.busy} {
		for other := list.first; other != nil; other = other.next {
			if other == s {
				return 2
			}
		}
	}
	return 1
}

// Ten words a span, then the allocation bits of all of them.
func (w *harnessWriter) spans() {
	at := w.reserve()
	n := uint64(0)
	for _, s := range mheap_.allspans {
		state := s.state.get()
		if state == mSpanDead {
			continue
		}
		n++
		w.put(uint64(s.base()), uint64(s.npages), harnessSpanKind(s), uint64(s.spanclass))
		if state == mSpanManual {
			w.put(0, 0, 0, 0, 0, 0)
			continue
		}
		w.put(uint64(s.nelems), uint64(s.freeindex), uint64(s.allocCount), uint64(s.allocCountBeforeCache))
		w.put(harnessBit(harnessPageMarked(s)), (uint64(s.nelems)+63)/64)
	}
	w.fill(at, n)
	at = w.reserve()
	first := w.count
	for _, s := range mheap_.allspans {
		if s.state.get() != mSpanInUse {
			continue
		}
		for i := uintptr(0); i < (uintptr(s.nelems)+63)/64; i++ {
			w.put(*(*uint64)(unsafe.Pointer(s.allocBits.bytep(i * 8))))
		}
	}
	w.fill(at, uint64(w.count-first))
}

func (w *harnessWriter) processors() {
	at := w.reserve()
	n := uint64(0)
	for _, p := range allp {
		if p == nil || p.mcache == nil {
			continue
		}
		n++
		w.put(uint64(p.id), uint64(p.pcache.base), p.pcache.cache, p.pcache.scav)
		w.put(uint64(p.mcache.tiny), uint64(p.mcache.tinyoffset), uint64(len(p.mcache.alloc)))
		for _, s := range p.mcache.alloc {
			if s == &emptymspan {
				w.put(0)
			} else {
				w.put(uint64(s.base()))
			}
		}
	}
	w.fill(at, n)
}

func (w *harnessWriter) central() {
	w.put(uint64(len(mheap_.central)))
	sweepgen := mheap_.sweepgen
	for i := range mheap_.central {
		c := &mheap_.central[i].mcentral
		w.spanSet(c.partialSwept(sweepgen))
		w.spanSet(c.fullSwept(sweepgen))
	}
}

func (w *harnessWriter) spanSet(set *spanSet) {
	at := w.reserve()
	n := uint64(0)
	head, tail := set.index.load().split()
	for i := head; i < tail; i++ {
		block := set.spine.Load().lookup(uintptr(i / spanSetBlockEntries)).Load()
		if block == nil {
			continue
		}
		if s := block.spans[i%spanSetBlockEntries].Load(); s != nil {
			w.put(uint64(s.base()))
			n++
		}
	}
	w.fill(at, n)
}

func (w *harnessWriter) chunks() {
	at := w.reserve()
	n := uint64(0)
	pages := &mheap_.pages
	for _, r := range pages.inUse.ranges {
		for ci := chunkIndex(r.base.addr()); ci <= chunkIndex(r.limit.addr()-1); ci++ {
			n++
			chunk := pages.chunkOf(ci)
			w.put(uint64(chunkBase(ci)))
			w.put(chunk.pallocBits[:]...)
			w.put(chunk.scavenged[:]...)
			density := pages.scav.index.chunks[ci].load()
			w.put(uint64(density.inUse), uint64(density.lastInUse), uint64(density.gen))
			w.put(harnessBit(density.isEmpty()))
		}
	}
	w.fill(at, n)
}

// harnessPin moves the running thread onto a P and keeps it there until harnessUnpin, so that one thread can play the
// part of several. False, and not pinned, where work waits on this P, which the caller should let run, or where the
// wanted one does not become idle. No collection begins while a thread is pinned.
//
//go:linkname harnessPin main.harnessPin
func harnessPin(id int32) bool {
	mp := acquirem()
	// A thread that looks for work holds a P, too. It is waited for here: whoever yields instead has the scheduler wake
	// the next one, and may do so for ever.
	for range harnessPinTries {
		if mp.p.ptr().id == id || harnessSwitchP(mp, id) {
			return true
		}
		if !runqempty(mp.p.ptr()) {
			break
		}
		systemstack(func() { usleep(5) })
	}
	releasem(mp)
	return false
}

const harnessPinTries = 2000

//go:linkname harnessUnpin main.harnessUnpin
func harnessUnpin() { releasem(getg().m) }

func harnessSwitchP(mp *m, id int32) bool {
	// The goroutine that waits here would be left on an idle P.
	if !runqempty(mp.p.ptr()) {
		return false
	}
	switched := false
	systemstack(func() {
		lock(&sched.lock)
		want := allp[id]
		link := &sched.pidle
		for link.ptr() != nil && link.ptr() != want {
			link = &link.ptr().link
		}
		if link.ptr() == nil {
			unlock(&sched.lock)
			return
		}
		*link = want.link
		want.link = 0
		sched.npidle.Add(-1)
		timerpMask.set(want.id)
		idlepMask.clear(want.id)
		want.limiterEvent.stop(limiterEventIdle, nanotime())
		pidleput(releasepNoTrace(), 0)
		unlock(&sched.lock)
		acquirepNoTrace(want)
		switched = true
	})
	return switched
}
