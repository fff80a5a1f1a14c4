// Compiled with the flags of its own instruction set (see build.py).
#if defined(__x86_64__)
#define SPTR_LANES 16
#define SPTR_NAME "avx512"
#define SPTR_TABLE kernels_avx512
#include "attention.inc"
#endif
