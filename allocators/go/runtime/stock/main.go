// The program behind a row of the table: carries out a trace on an unmodified runtime and measures itself.
//
// Built by build.py with the toolchain alone, no hooks, and driven by stock.py: commands come on standard input, events
// and samples stand in memory that both have mapped. What holds the trace's objects is the only thing of the program's
// own on its heap, and grows between two batches.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/metrics"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

//go:linkname mallocgc runtime.mallocgc
func mallocgc(size uintptr, typ unsafe.Pointer, needzero bool) unsafe.Pointer

// One event: process.py (RECORD).
type record struct {
	op     uint8
	noscan uint8
	_      uint16
	slot   uint32
	size   uint64
}

const (
	opAllocate = 1
	opRelease  = 2
	opCollect  = 3
)

// Commands: stock.py. Each comes with the number of events, of the moments among them at which to take a sample, and of
// the slots that their objects need.
const (
	commandReplay = 1
	commandTouch  = 2
	commandIdle   = 3

	commandWords = 4
)

// A chunk of the table takes 64 KiB: pages of its own, so that it lies in nobody's span.
const (
	chunkBits  = 13
	chunkSlots = 1 << chunkBits
	chunkBytes = chunkSlots * 8
	mostChunks = 1 << (32 - chunkBits)
)

// Of the kernel.
const pageBytes = 4096

type chunk [chunkSlots]unsafe.Pointer

// What the program holds. Chunks hang on `chunks`; the directory, which has them side by side whatever their number,
// lies off the heap, where the collector does not look.
var (
	chunks    []*chunk
	directory *[mostChunks]*chunk
)

type interfaceWords struct{ typ, data unsafe.Pointer }

// A type with pointers in every word, whatever the size.
var scanType = func() unsafe.Pointer {
	var x any = (*int)(nil)
	return (*interfaceWords)(unsafe.Pointer(&x)).typ
}()

// What stands in the place of an object where nothing is allocated.
var scanNothing, noscanNothing = unsafe.Pointer(new(*int)), unsafe.Pointer(new(int))

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// The memory that is shared with stock.py: events, then moments, then a sample for each.
type shared struct {
	events  []record
	stops   []uint64
	samples []uint64
}

func mapShared(descriptor, eventCount, stopCount, sampleWords int) shared {
	eventBytes := eventCount * int(unsafe.Sizeof(record{}))
	bytes, err := syscall.Mmap(descriptor, 0, eventBytes+8*stopCount*(1+sampleWords),
		syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		fail(err)
	}
	start := unsafe.Pointer(&bytes[0])
	return shared{
		events:  unsafe.Slice((*record)(start), eventCount),
		stops:   unsafe.Slice((*uint64)(unsafe.Add(start, eventBytes)), stopCount),
		samples: unsafe.Slice((*uint64)(unsafe.Add(start, eventBytes+8*stopCount)), stopCount*sampleWords),
	}
}

func mapDirectory() *[mostChunks]*chunk {
	bytes, err := syscall.Mmap(-1, 0, mostChunks*8, syscall.PROT_READ|syscall.PROT_WRITE,
		syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		fail(err)
	}
	return (*[mostChunks]*chunk)(unsafe.Pointer(&bytes[0]))
}

func makeRoomFor(slots int) {
	for len(chunks)*chunkSlots < slots {
		made := new(chunk)
		directory[len(chunks)] = made
		chunks = append(chunks, made)
	}
}

// replay carries out events.
//
//go:noinline
func replay(events []record, directory *[mostChunks]*chunk) {
	for i := range events {
		e := &events[i]
		held := &directory[e.slot>>chunkBits][e.slot%chunkSlots]
		switch e.op {
		case opAllocate:
			if e.noscan != 0 {
				*held = mallocgc(uintptr(e.size), nil, true)
			} else {
				*held = mallocgc(uintptr(e.size), scanType, true)
			}
		case opRelease:
			*held = nil
		case opCollect:
			runtime.GC()
		}
	}
}

// replayTouching does the same and writes to every page of an object, as the program did that had it.
//
//go:noinline
func replayTouching(events []record, directory *[mostChunks]*chunk) {
	for i := range events {
		replay(events[i:i+1], directory)
		if e := &events[i]; e.op == opAllocate {
			object := directory[e.slot>>chunkBits][e.slot%chunkSlots]
			for at := uintptr(0); at < uintptr(e.size); at += pageBytes {
				*(*byte)(unsafe.Add(object, at)) = 0 // What is there already: these words may be pointers.
			}
		}
	}
}

// idle does what replay does beside allocating.
//
//go:noinline
func idle(events []record, directory *[mostChunks]*chunk) {
	for i := range events {
		e := &events[i]
		held := &directory[e.slot>>chunkBits][e.slot%chunkSlots]
		switch e.op {
		case opAllocate:
			if e.noscan != 0 {
				*held = noscanNothing
			} else {
				*held = scanNothing
			}
		case opRelease:
			*held = nil
		}
	}
}

// What a sample consists of: metrics of the runtime, then the bytes of anonymous memory that the kernel counts, then the
// bytes of the table.
type sampler struct {
	metrics []metrics.Sample
	statm   int
	text    [128]byte
}

func newSampler(names []string) *sampler {
	s := &sampler{metrics: make([]metrics.Sample, len(names))}
	for i, name := range names {
		s.metrics[i].Name = name
	}
	statm, err := syscall.Open("/proc/self/statm", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		fail(fmt.Errorf("/proc/self/statm: %w", err))
	}
	s.statm = statm
	// The first call of all makes tables.
	s.take(make([]uint64, s.words()))
	for _, metric := range s.metrics {
		if metric.Value.Kind() == metrics.KindBad {
			fail(fmt.Errorf("%s has no metric %s", runtime.Version(), metric.Name))
		}
	}
	return s
}

func (s *sampler) words() int { return len(s.metrics) + 2 }

func (s *sampler) take(to []uint64) {
	metrics.Read(s.metrics)
	for i := range s.metrics {
		switch value := &s.metrics[i].Value; value.Kind() {
		case metrics.KindUint64:
			to[i] = value.Uint64()
		case metrics.KindFloat64: // Seconds.
			to[i] = uint64(value.Float64() * 1e9)
		}
	}
	to[len(s.metrics)] = s.anonymousBytes()
	to[len(s.metrics)+1] = uint64(len(chunks) * chunkBytes)
}

// anonymousBytes is what is resident less what is shared: the program's text and the memory that stock.py writes to.
func (s *sampler) anonymousBytes() uint64 {
	length, _, errno := syscall.RawSyscall6(syscall.SYS_PREAD64, uintptr(s.statm),
		uintptr(unsafe.Pointer(&s.text[0])), uintptr(len(s.text)), 0, 0, 0)
	if errno != 0 {
		fail(errno)
	}
	var fields [3]uint64 // All, resident, shared; in pages.
	field := 0
	for _, c := range s.text[:length] {
		if c == ' ' {
			if field++; field == len(fields) {
				break
			}
		} else {
			fields[field] = 10*fields[field] + uint64(c-'0')
		}
	}
	return (fields[1] - fields[2]) * pageBytes
}

// transfer moves whole words between a file descriptor and memory, past the scheduler: whoever waits here keeps its P, so
// that to the runtime the program is never idle. False where the other side has closed.
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

// Off the heap and off the stack, so that the kernel may write to them.
var (
	command [commandWords]uint64
	elapsed [1]uint64
)

// serve carries out commands until there are no more, and answers each with the nanoseconds that its events took.
func serve(s shared, sampler *sampler) {
	words := sampler.words()
	for transfer(syscall.SYS_READ, command[:]) {
		kind, count, stops, slots := command[0], command[1], command[2], command[3]
		makeRoomFor(int(slots))
		carryOut := replay
		switch kind {
		case commandTouch:
			carryOut = replayTouching
		case commandIdle:
			carryOut = idle
		}
		elapsed[0] = 0
		first := uint64(0)
		for i := range stops + 1 {
			stop := count
			if i < stops {
				stop = s.stops[i]
			}
			start := time.Now()
			carryOut(s.events[first:stop], directory)
			elapsed[0] += uint64(time.Since(start))
			first = stop
			if i < stops {
				sampler.take(s.samples[int(i)*words : int(i+1)*words])
			}
		}
		transfer(syscall.SYS_WRITE, elapsed[:])
	}
}

func main() {
	descriptor := flag.Int("shared", -1, "the shared memory")
	events := flag.Int("events", 0, "how many events it has room for")
	stops := flag.Int("stops", 0, "and how many samples")
	names := flag.String("metrics", "", "what of runtime/metrics a sample has")
	flag.Parse()
	sampler := newSampler(strings.Split(*names, ","))
	s := mapShared(*descriptor, *events, *stops, sampler.words())
	directory = mapDirectory()
	// What start-up has left behind is collected.
	for range 2 {
		runtime.GC()
		time.Sleep(5 * time.Millisecond)
	}
	serve(s, sampler)
}
