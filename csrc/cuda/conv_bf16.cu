#define LD_TYPE bf16
#include "conv_half.inc"
