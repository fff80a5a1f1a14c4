#define LD_ELEMENT Tf32
#include "conv_single.inc"
