// Products of 4- and 8-bit weights with int8 activations.
#include "isa/kernels.h"

#include "isa/matmul_q_portable.inc"
