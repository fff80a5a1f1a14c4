// AVX-512 with native bfloat16 dot products (Zen 4, Cooper Lake and later).
#if defined(__x86_64__)
#define LD_LANES 16
#define LD_MAX_NV 6
#define LD_ROWS 8
#define LD_ROWS_WIDE 6
#define LD_NAME "avx512bf16"
#define LD_TABLE kernels_avx512bf16
#define LD_BF16_DOT
#include "conv_impl.inc"
#endif
