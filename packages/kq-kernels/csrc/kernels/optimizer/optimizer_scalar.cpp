#include "kernels/vec/scalar_dynamic.h"
// The instruction set comes first: the kernel is written in its terms.
#include "kernels/optimizer/table.inl.h"
