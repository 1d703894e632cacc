/* A signal handler, on a stack of its own, allocates 10,021 bytes: the interrupted function is its caller. */
#include <signal.h>
#include <stdlib.h>

static void* volatile sink;
static char stack[1 << 16];

__attribute__((noinline)) static void in_handler(void) {
  sink = malloc(10021);
  __asm__ volatile("");
}

static volatile int* volatile nowhere;

__attribute__((noinline)) static void interrupted(void) { *nowhere = 1; }

static void leave(int number) {
  in_handler();
  exit(number == SIGSEGV ? 0 : 1);
}

int main(void) {
  const stack_t own = {.ss_sp = stack, .ss_size = sizeof stack};
  struct sigaction action = {.sa_handler = leave, .sa_flags = SA_ONSTACK};
  sigaltstack(&own, NULL);
  sigaction(SIGSEGV, &action, NULL);
  interrupted();
  return 1;
}
