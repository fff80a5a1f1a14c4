#define LD_ELEMENT Fp32
#include "conv_single.inc"
