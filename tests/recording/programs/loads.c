/* Loads each library that it is given, calls its enter(), and closes it, a few times over: the libraries come
 * to stand where another one stood. A path may be relative. */
#include <dlfcn.h>
#include <stdio.h>

int main(int count, char** arguments) {
  for (int round = 0; round < 3; ++round) {
    for (int i = 1; i < count; ++i) {
      void* library = dlopen(arguments[i], RTLD_NOW);
      if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
      }
      void (*enter)(void);
      *(void**)&enter = dlsym(library, "enter");
      enter();
      enter();
      dlclose(library);
    }
  }
  return 0;
}
