// The replayer: carries out a trace with the real runtime.mallocgc and tells where every object went.
//
// Built by build.py against a runtime that has hooks.go in it, and driven by process.py: commands come on standard input,
// events and answers stand in a file that both have mapped. Nothing is allocated from the Go heap while it is driven, so
// that what happens there is the trace's.
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
func harnessTakeCycles(to []uint64) int
func harnessHeapInUse() uint64
func harnessFreeScanSlots(class uint8) (size uintptr, free int)
func harnessStopRecordingRoots()

//go:linkname mallocgc runtime.mallocgc
func mallocgc(size uintptr, typ unsafe.Pointer, needzero bool) unsafe.Pointer

// One event: process.py (RECORD).
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
)

// Commands and the words of an answer: process.py.
const (
	commandReplay = 1
	commandState  = 2
	commandCycles = 3

	answerWords = 3
)

// What the program holds: a global, so that its marking needs no heap. build.py says how many slots it has.
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

// The file that is shared with process.py: events, an answer to each, then words for states and cycles. While events are
// carried out, the first word is the number of those that are done.
type shared struct {
	events  []record
	answers []uint64
	words   []uint64
}

func mapShared(path string, capacity int) shared {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		fail(err)
	}
	info, err := file.Stat()
	if err != nil {
		fail(err)
	}
	bytes, err := syscall.Mmap(int(file.Fd()), 0, int(info.Size()), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		fail(err)
	}
	file.Close()
	start := unsafe.Pointer(&bytes[0])
	recordBytes := capacity * int(unsafe.Sizeof(record{}))
	return shared{
		events:  unsafe.Slice((*record)(start), capacity),
		answers: unsafe.Slice((*uint64)(unsafe.Add(start, recordBytes)), capacity),
		words: unsafe.Slice((*uint64)(unsafe.Add(start, recordBytes+8*capacity)),
			(len(bytes)-recordBytes-8*capacity)/8),
	}
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

// Objects of 16 to 512 bytes: spans of others keep their marks elsewhere.
const firstClassWithMarks, lastClassWithMarks = 2, 26

// Objects that stand where the trace's would else stand beside the runtime's own.
var fillers [1 << 13]unsafe.Pointer

// fillStartSpans takes the free slots of spans of objects with pointers that green tea marks inside of the span. In which
// order those objects are marked depends on what they hang on, and that decides when a lazy sweep comes to the span.
func fillStartSpans() {
	filled := 0
	for class := uint8(firstClassWithMarks); class <= lastClassWithMarks; class++ {
		size, free := harnessFreeScanSlots(class)
		for range free {
			fillers[filled] = mallocgc(size, scanType, true)
			filled++
		}
	}
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

// replay carries out events, writes the address of each that allocates and how many are done, and returns the sum of the
// heap's bytes in use after each. Pinning, at each allocation anew since the scheduler may have moved this goroutine meanwhile, is for
// several Ps only: a collection cannot be triggered by an allocation that is pinned.
//
//go:noinline
func replay(events []record, answers []uint64, done *uint64, pin bool) (inUse uint64) {
	for i := range events {
		*done = uint64(i)
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
			answers[i] = uint64(uintptr(object))
		case opRelease:
			table[e.slot] = nil
		case opCollect:
			collect()
		}
		inUse += harnessHeapInUse()
	}
	return inUse
}

// transfer moves whole words between a file descriptor and memory, past the scheduler: whoever waits here keeps its P.
// False where the other side has closed.
func transfer(trap uintptr, words []uint64) bool {
	at, left := uintptr(unsafe.Pointer(&words[0])), uintptr(len(words)*8)
	descriptor := uintptr(0)
	if trap == syscall.SYS_WRITE {
		descriptor = 1
	}
	for left > 0 {
		n, _, errno := syscall.RawSyscall(trap, descriptor, at, left)
		if errno == syscall.EINTR {
			continue
		}
		if errno != 0 || n == 0 {
			return false
		}
		at, left = at+n, left-n
	}
	return true
}

// serve carries out commands until there are no more.
//
//go:noinline
func serve(s shared, command *[2]uint64, answer *[answerWords]uint64, pin bool) {
	for transfer(syscall.SYS_READ, command[:]) {
		switch command[0] {
		case commandReplay:
			start := time.Now()
			answer[0] = replay(s.events[:command[1]], s.answers, &s.words[0], pin)
			answer[1] = uint64(time.Since(start))
		case commandState:
			answer[0] = uint64(harnessHeapState(unsafe.Pointer(&s.words[0]), len(s.words)))
		case commandCycles:
			answer[0] = uint64(harnessTakeCycles(s.words))
		}
		transfer(syscall.SYS_WRITE, answer[:])
	}
}

// Off the heap and off the stack, so that the kernel may write to them.
var (
	command [2]uint64
	answer  [answerWords]uint64
)

func main() {
	path := flag.String("shared", "", "the shared file")
	capacity := flag.Int("events", 0, "how many events it has room for")
	holdBack := flag.Uint("hold-back", 0, "1: no background sweeper, 2: no background scavenger, 3: neither")
	spareThreads := flag.Int("spare-threads", 0, "threads to make before the replay")
	fill := flag.Bool("fill", false, "leave no free slot in a span that keeps its marks itself")
	pin := flag.Bool("pin", false, "carry out each allocation on the P that its event names")
	flag.Parse()
	// The heap profiler samples at random and hangs records on objects.
	runtime.MemProfileRate = 0
	s := mapShared(*path, *capacity)

	// What start-up has left behind is collected, and everything that runs once has run; the last time in the mode
	// that the replay is going to run in.
	makeSpareThreads(*spareThreads)
	for range 2 {
		runtime.GC()
		time.Sleep(5 * time.Millisecond)
	}
	harnessHoldBack(uint32(*holdBack))
	if *fill {
		fillStartSpans()
	}
	// From where the trace will run, so that the stacks hold what they will hold.
	s.events[0] = record{op: opCollect}
	replay(s.events[:1], s.answers, &s.words[0], false)
	harnessTakeCycles(nil)
	harnessStopRecordingRoots()
	serve(s, &command, &answer, *pin)
}
