#include "kernels/vec/avx2.h"
// The instruction set comes first: the kernel is written in its terms.
#include "kernels/dequantize_blockwise/dequantize_blockwise.inl.h"
