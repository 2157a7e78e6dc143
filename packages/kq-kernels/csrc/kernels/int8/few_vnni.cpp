#include "kernels/vec/vnni.h"
// The instruction set comes first: the kernel is written in its terms.
#include "kernels/int8/few.inl.h"
