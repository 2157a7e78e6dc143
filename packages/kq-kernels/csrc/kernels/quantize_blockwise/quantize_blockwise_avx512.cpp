#include "kernels/vec/avx512_dynamic.h"
// The instruction set comes first: the kernel is written in its terms.
#include "kernels/quantize_blockwise/quantize_blockwise.inl.h"
