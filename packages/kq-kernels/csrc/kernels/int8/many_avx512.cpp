#include "kernels/vec/avx512_int8.h"
// The instruction set comes first: the kernel is written in its terms.
#include "kernels/int8/many.inl.h"
