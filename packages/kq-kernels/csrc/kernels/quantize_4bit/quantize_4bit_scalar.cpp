#include "kernels/vec/scalar_codes.h"
// The instruction set comes first: the kernel is written in its terms.
#include "kernels/quantize_4bit/quantize_4bit.inl.h"
