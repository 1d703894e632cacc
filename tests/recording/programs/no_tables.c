/* Calls malloc from assembly without unwind tables that leaves nonsense in rbp, and from code that is made at
 * run time: the recorder must survive both, and see the innermost caller at least. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

__asm__(
    ".text\n"
    ".globl untabled\n"
    ".type untabled, @function\n"
    "untabled:\n" /* No .cfi: the tables have nothing for it. */
    "  push %rbp\n"
    "  mov $0x7777777777777778, %rbp\n"
    "  mov $10011, %edi\n"
    "  call malloc@PLT\n"
    "  pop %rbp\n"
    "  ret\n"
    ".size untabled, .-untabled\n"
    ".globl liar\n"
    ".type liar, @function\n"
    "liar:\n" /* Its tables say that rbp is the frame, and it points above the stack. */
    "  .cfi_startproc\n"
    "  push %rbp\n"
    "  .cfi_def_cfa_offset 16\n"
    "  .cfi_offset %rbp, -16\n"
    "  lea 0x10000000(%rsp), %rbp\n"
    "  .cfi_def_cfa_register %rbp\n"
    "  mov $10012, %edi\n"
    "  call malloc@PLT\n"
    "  pop %rbp\n"
    "  .cfi_def_cfa %rsp, 8\n"
    "  ret\n"
    "  .cfi_endproc\n"
    ".size liar, .-liar\n");

void* untabled(void);
void* liar(void);

int main(void) {
  free(untabled());
  free(liar());
  /* mov $10013, %edi; mov $malloc, %rax; sub $8, %rsp; call *%rax; add $8, %rsp; ret */
  unsigned char code[] = {0xBF, 0x1D, 0x27, 0,    0,    0x48, 0xB8, 0,    0,    0,    0,    0,    0,
                          0,    0,    0x48, 0x83, 0xEC, 0x08, 0xFF, 0xD0, 0x48, 0x83, 0xC4, 0x08, 0xC3};
  void* (*target)(size_t) = malloc;
  memcpy(code + 7, &target, sizeof target);
  void* page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memcpy(page, code, sizeof code);
  mprotect(page, 4096, PROT_READ | PROT_EXEC);
  void* (*made)(void);
  memcpy(&made, &page, sizeof made);
  free(made());
  return 0;
}
