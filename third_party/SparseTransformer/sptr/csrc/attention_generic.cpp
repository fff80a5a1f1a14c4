// Any machine: vectors of 4 floats.
#define SPTR_LANES 4
#define SPTR_NAME "generic"
#define SPTR_TABLE kernels_generic
#include "attention.inc"
