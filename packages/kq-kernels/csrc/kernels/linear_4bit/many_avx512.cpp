#include "kernels/vec/avx512.h"
// The instruction set comes first: the kernel is written in its terms.
#include "kernels/linear_4bit/many.inl.h"
