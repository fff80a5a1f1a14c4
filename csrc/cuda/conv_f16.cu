#define LD_TYPE f16
#include "conv_half.inc"
