/* Starts a child in the way that the argument names (fork, clone, vfork, spawn, exec); parent and child each
 * allocate objects of sizes of their own: the parent 1,111 bytes, the child 2,222, both 3,333 before. A
 * program that is executed is this one again, with the argument `executed`: 4,444 bytes. */
#define _GNU_SOURCE
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;
static void* volatile sink;

static void allocate(size_t size, int times) {
  for (int i = 0; i < times; ++i) {
    sink = malloc(size);
    free(sink);
  }
}

int main(int count, char** arguments) {
  const char* way = count > 1 ? arguments[1] : "fork";
  char* again[] = {arguments[0], "executed", NULL};
  if (strcmp(way, "executed") == 0) {
    allocate(4444, 100);
    return 0;
  }
  sink = malloc(3333);
  void* inherited = sink;
  pid_t child = 0;
  if (strcmp(way, "fork") == 0) {
    child = fork();
  } else if (strcmp(way, "clone") == 0) {
    child = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
  } else if (strcmp(way, "vfork") == 0) {
    child = vfork();
    if (child == 0) {
      execv("/proc/self/exe", again);
      _exit(127);
    }
  } else if (strcmp(way, "spawn") == 0) {
    if (posix_spawn(&child, "/proc/self/exe", NULL, NULL, again, environ) != 0) return 1;
  } else {
    allocate(1111, 100);
    execv("/proc/self/exe", again);
    return 127;
  }
  allocate(child == 0 ? 2222 : 1111, 100);
  free(inherited);
  if (child == 0) return 0;
  int status = 0;
  waitpid(child, &status, 0);
  return status != 0;
}
