// The kernel tables, with the number of rows at which decoding tiles overtakes decoding in registers
// (measured on 4096 x 4096, benchmarks/README.md).
#include "kernels/table.inl.h"

KQ_KERNEL_TABLE(scalar, 4)
#if KQ_X86
KQ_KERNEL_TABLE(avx2, 4)
KQ_KERNEL_TABLE(avx512, 8)
#endif
