#include "kernels/vec/scalar.h"
// The instruction set comes first: the kernel is written in its terms.
#include "kernels/dequantize_4bit/dequantize_4bit.inl.h"
