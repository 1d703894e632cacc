// The replayer: carries out a trace with the real runtime.mallocgc and tells where every object went.
//
// Built by build.py against a runtime that has hooks.go in it. Trace and results are mapped files, and nothing is
// allocated from the Go heap between the first heap state and the last, so that what happens there is the trace's.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// In package runtime: hooks.go.
func harnessHeapState(buffer unsafe.Pointer, room int) int
func harnessPin(id int32) bool
func harnessUnpin()
func harnessSettled() bool
func harnessHoldBack(bits uint32)
func harnessCycleWords() []uint64
func harnessForgetCycles()

//go:linkname mallocgc runtime.mallocgc
func mallocgc(size uintptr, typ unsafe.Pointer, needzero bool) unsafe.Pointer

// One event: __init__.py (RECORD).
type record struct {
	op     uint8
	noscan uint8
	p      uint16
	slot   uint32
	size   uint64
}

const (
	opAllocate = 1
	opRelease  = 2
	opCollect  = 3
	opState    = 4
)

// What the program holds: a global, so that its marking needs no heap. __init__.py (TABLE_SLOTS).
const tableSlots = 1 << 21

var table [tableSlots]unsafe.Pointer

type interfaceWords struct{ typ, data unsafe.Pointer }

// A type with pointers in every word, whatever the size.
var scanType = func() unsafe.Pointer {
	var x any = (*int)(nil)
	return (*interfaceWords)(unsafe.Pointer(&x)).typ
}()

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func mapFile(path string, size int, writable bool) []byte {
	flags, prot := os.O_RDONLY, syscall.PROT_READ
	if writable {
		flags, prot = os.O_RDWR|os.O_CREATE|os.O_TRUNC, syscall.PROT_READ|syscall.PROT_WRITE
	}
	file, err := os.OpenFile(path, flags, 0o644)
	if err != nil {
		fail(err)
	}
	defer file.Close()
	if writable {
		err = file.Truncate(int64(size))
	} else if info, statErr := file.Stat(); statErr == nil {
		size = int(info.Size())
	}
	if err != nil {
		fail(err)
	}
	if size == 0 {
		return nil
	}
	bytes, err := syscall.Mmap(int(file.Fd()), 0, size, prot, syscall.MAP_SHARED)
	if err != nil {
		fail(err)
	}
	return bytes
}

// Heap states, one after the other: a count of words, then the words.
type states struct {
	words []uint64
	count int
}

func (s *states) take() {
	room := len(s.words) - s.count - 1
	n := harnessHeapState(unsafe.Pointer(&s.words[s.count+1]), room)
	if n > room {
		println("the file of heap states is too small")
		os.Exit(1)
	}
	s.words[s.count] = uint64(n)
	s.count += 1 + n
}

// makeSpareThreads has threads made that then stand idle. Otherwise the scheduler makes them when it likes, and what
// it allocates for one stands between the trace's objects.
func makeSpareThreads(count int) {
	var made, ended sync.WaitGroup
	done := make(chan struct{})
	made.Add(count)
	ended.Add(count)
	for range count {
		go func() {
			runtime.LockOSThread()
			made.Done()
			<-done
			runtime.UnlockOSThread()
			ended.Done()
		}()
	}
	made.Wait()
	close(done)
	ended.Wait()
}

// collect lets the background sweeper finish too: it frees the work buffers after the collection has returned.
func collect() {
	runtime.GC()
	for range 20 {
		runtime.Gosched()
	}
	for !harnessSettled() {
		runtime.Gosched()
	}
}

// replay carries out the trace. Pinning, at each allocation anew since the scheduler may have moved this goroutine
// meanwhile, is for several Ps only: a collection cannot be triggered by an allocation that is pinned.
//
//go:noinline
func replay(events []record, addresses []uint64, s *states, pin bool) {
	allocations := 0
	for i := range events {
		e := &events[i]
		switch e.op {
		case opAllocate:
			if pin {
				for !harnessPin(int32(e.p)) {
					runtime.Gosched()
				}
			}
			var object unsafe.Pointer
			if e.noscan != 0 {
				object = mallocgc(uintptr(e.size), nil, true)
			} else {
				object = mallocgc(uintptr(e.size), scanType, true)
			}
			if pin {
				harnessUnpin()
			}
			table[e.slot] = object
			addresses[allocations] = uint64(uintptr(object))
			allocations++
		case opRelease:
			table[e.slot] = nil
		case opCollect:
			collect()
		case opState:
			s.take()
		}
	}
}

func words(bytes []byte) []uint64 {
	if len(bytes) == 0 {
		return nil
	}
	return unsafe.Slice((*uint64)(unsafe.Pointer(&bytes[0])), len(bytes)/8)
}

func main() {
	tracePath := flag.String("trace", "", "events")
	addressPath := flag.String("addresses", "", "where to write an address for each allocation")
	allocations := flag.Int("allocations", 0, "how many there are")
	statePath := flag.String("states", "", "where to write the heap's states")
	stateBytes := flag.Int("state-bytes", 64<<20, "room for them")
	cyclePath := flag.String("cycles", "", "where to write what each cycle found")
	holdBack := flag.Uint("hold-back", 0, "1: no background sweeper, 2: no background scavenger, 3: neither")
	spareThreads := flag.Int("spare-threads", 0, "threads to make before the replay")
	flag.Parse()
	// The heap profiler samples at random and hangs records on objects.
	runtime.MemProfileRate = 0

	trace := mapFile(*tracePath, 0, false)
	var events []record
	if len(trace) > 0 {
		events = unsafe.Slice((*record)(unsafe.Pointer(&trace[0])), len(trace)/int(unsafe.Sizeof(record{})))
	}
	addresses := words(mapFile(*addressPath, *allocations*8, true))
	s := &states{words: words(mapFile(*statePath, *stateBytes, true))}

	// What start-up has left behind is collected, and everything that runs once has run; the last time in the mode
	// that the replay is going to run in.
	makeSpareThreads(*spareThreads)
	for range 2 {
		runtime.GC()
		time.Sleep(5 * time.Millisecond)
	}
	harnessHoldBack(uint32(*holdBack))
	collect()
	harnessForgetCycles()
	s.take()
	replay(events, addresses, s, runtime.GOMAXPROCS(0) > 1)
	s.take()

	if err := os.Truncate(*statePath, int64(s.count)*8); err != nil {
		fail(err)
	}
	cycles := harnessCycleWords()
	if len(cycles) > 0 {
		bytes := unsafe.Slice((*byte)(unsafe.Pointer(&cycles[0])), len(cycles)*8)
		if err := os.WriteFile(*cyclePath, bytes, 0o644); err != nil {
			fail(err)
		}
	}
}
