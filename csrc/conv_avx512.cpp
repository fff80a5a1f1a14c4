// AVX-512: 32 registers of 16 floats.
#if defined(__x86_64__)
#define LD_LANES 16
#define LD_MAX_NV 4
#define LD_ROWS 8
#define LD_ROWS_WIDE 6
#define LD_NAME "avx512"
#define LD_TABLE kernels_avx512
#include "conv_impl.inc"
#endif
