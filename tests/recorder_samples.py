"""A file of each recorder, with a line of every kind, by the format's name."""

from __future__ import annotations

SAMPLES = {
    "bpftrace": """\

Attaching 18 probes...
100 7 malloc 10 0xaa0
110 7 calloc 2 8 0xbb0
120 7 realloc_begin 0xaa0
130 8 malloc 30 0xdd0
135 8 malloc 31 0xaa0
140 7 realloc 0xaa0 100 0xcc0
150 7 free 0xcc0
160 7 realloc_begin 0x0
170 7 realloc 0x0 77 0xcc0
180 8 memalign 64 128 0xe00
190 8 memalign 48 5 0xf00
200 8 malloc 4611686018427387904 0x0
210 8 calloc 4611686018427387904 8 0x0
220 8 free 0x999
230 8 realloc_begin 0xcc0
240 8 realloc 0xcc0 0 0x0


""",
    "heaptrack": """\
v 10400 3
x d /opt/prog one
X /opt/prog one two
I 1000 5e298f
m 1 -
m 1 x 1000 0 740 1000 2ad
m d /opt/lib a.so 7000 0 500
t 1010 0
t 7011 1
+ a 2 aa0
c 5
R 1
- aa0
m 1 -
m 1 x 1000 0 740 1000 2ad
m d /opt/lib a.so 9000 0 500
t 2012 0
t 7012 0
+ 10 3 aa0
+ 0 4 bb0
+ 20 2 cc0
c a
- bb0
- ee0
""",
    "ltrace": """\
7 prog->malloc(10)             = 0xaa0
7 calloc(2, 8)                   = 0xbb0
7 realloc(0xaa0, 100)            = 0xcc0
8 malloc@libc.so.6(30 <unfinished ...>
7 realloc(0xcc0, 0 <unfinished ...>
7 free@libc.so.6(0xcc0)          = <void>
8 <... malloc resumed> )         = 0xdd0
7 <... realloc resumed> )        = 0
7 puts("free(0xbb0)")            = 3
8 free(0xbb0 <unfinished ...>
7 malloc(16)                     = 0xbb0
8 <... free resumed> )           = <void>
8 +++ exited (status 0) +++
7 posix_memalign(0xe00, 64, 100) = 0
7 posix_memalign( <unfinished ...>
7 <... posix_memalign resumed> 0xf00, 128, 101) = 0
7 posix_memalign(0x7ffc00, 3, 100) = 22
7 aligned_alloc(64, 128)         = 0x1200
7 memalign(48, 5)                = 0x1300
7 valloc(6)                      = 0x2000
7 reallocarray(0, 3, 7)          = 0x1400
7 malloc(4611686018427387904)    = 0
7 calloc(4611686018427387904, 8) = 0
7 malloc(-1)                     = nil
7 free(0)                        = <void>
7 free(0xabc)                    = <void>
7 --- SIGCHLD (Child exited) ---
""",
    "mtrace": """\
= Start
@ ./a prog:[0x1238] + 0xaa0 0xa
@ ./a prog:(main+25)[0x1239] < 0xaa0
@ ./a prog:(main+25)[0x1239] > 0xbb0 0x64
@ [0x7f00] + 0xcc0 0
@ ./a prog:[0x1238] + (nil) 0x4000000000000000
@ ./a prog:[0x1240] ! 0xbb0 0x4000000000000000
@ ./a prog:[0x1238] - 0xdd0
+ 0xee0 0x7
@ ./a prog:[0x1238] - 0xbb0
= End
""",
    "valgrind": """\
==7== Memcheck, a memory error detector
==7== Command: ./prog one two
==7==
--7-- malloc(10) = 0xAA0
--7-- calloc(2,8) = 0xBB0
--7-- realloc(0xAA0,100) = 0xCC0
what the program prints
--7-- realloc(0xCC0,0)free(0xCC0)
--7--  = 0
--7-- realloc(0x0,77)malloc(77) = 0xAA0
hello--7-- free(0xBB0)
--7-- WARNING: unhandled amd64-linux syscall: 334
--7-- memalign(al 64, size 100) = 0xD00
--7-- _ZnwmSt11align_val_t(size 128, al 64) = 0xE00
--7-- _ZdlPvmSt11align_val_t(0xE00)
--7-- malloc_usable_size(0xD00) = 100
--7-- calloc(4611686018427387904,8)malloc(8) = 0xF00
--7-- malloc(4611686018427387904) = 0x0
--7-- realloc(0xF00,4611686018427387904) = 0x0
--7-- free(0x0)
==7== HEAP SUMMARY:
==7==     in use at exit: 184 bytes in 3 blocks
""",
}
