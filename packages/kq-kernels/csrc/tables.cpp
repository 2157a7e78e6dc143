// The kernel tables, with the number of rows up to which decoding in registers is the faster kernel. It takes
// kFewRows at a time; on 4096 x 4096 (Xeon, 2 cores) two such passes take 4.5 ms with AVX-512, where tiles
// take 6.3 ms for up to 16 rows. With AVX2 two passes take as long as tiles, about 7 ms.
#include "kernels/table.inl.h"

KQ_KERNEL_TABLE(scalar, 4)
#if KQ_X86
KQ_KERNEL_TABLE(avx2, 4)
KQ_KERNEL_TABLE(avx512, 4)
#endif
