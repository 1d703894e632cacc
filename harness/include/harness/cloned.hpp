// HARNESS_CLONED marks a function that is compiled twice, once for processors that have AVX2 and BMI2, as
// most have: the loader takes what the machine can do. Results do not depend on it. Where a compiler cannot,
// once. Exceptions may pass through it, but nothing in it may have to be destroyed then: GCC 12 terminates
// the program.
#pragma once

#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12
#define HARNESS_CLONED gnu::target_clones("arch=x86-64-v3", "default")
#else
#define HARNESS_CLONED
#endif
