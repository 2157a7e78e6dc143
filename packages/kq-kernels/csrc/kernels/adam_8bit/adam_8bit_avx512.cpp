#include "kernels/vec/avx512_codes.h"
// The instruction set comes first: the kernel is written in its terms.
#include "kernels/adam_8bit/adam_8bit.inl.h"
