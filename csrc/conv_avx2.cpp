// AVX2 + FMA: 16 registers of 8 floats.
#if defined(__x86_64__)
#define LD_LANES 8
#define LD_MAX_NV 2
#define LD_ROWS 4
#define LD_ROWS_WIDE 4
#define LD_NAME "avx2"
#define LD_TABLE kernels_avx2
#include "conv_impl.inc"
#endif
