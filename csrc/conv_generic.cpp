// Any machine (SSE2 on x86-64, NEON on Arm): the compiler lowers 4-float vectors.
#define LD_LANES 4
#define LD_MAX_NV 2
#define LD_ROWS 4
#define LD_ROWS_WIDE 4
#define LD_NAME "generic"
#define LD_TABLE kernels_generic
#include "conv_impl.inc"
