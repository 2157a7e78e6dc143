#include "kernels/vec/scalar.h"
// The instruction set comes first: the kernel is written in its terms.
#include "kernels/linear_4bit/few.inl.h"
