// Compiled with the flags of its own instruction set (see build.py).
#if defined(__x86_64__)
#define SPTR_LANES 8
#define SPTR_NAME "avx2"
#define SPTR_TABLE kernels_avx2
#include "attention.inc"
#endif
