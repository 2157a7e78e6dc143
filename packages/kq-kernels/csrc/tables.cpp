// The kernel tables, with the number of rows up to which decoding in registers is the faster kernel. It takes
// kFewRows at a time; on 4096 x 4096 (Xeon, 2 cores) two such passes take 4.5 ms with AVX-512, where tiles
// take 6.3 ms for up to 16 rows. With AVX2 two passes take as long as tiles, about 7 ms.
#include "kernels/table.inl.h"

KQ_KERNEL_TABLE(scalar, 4)
#if KQ_X86
KQ_KERNEL_TABLE(avx2, 4)
KQ_KERNEL_TABLE(avx512, 4)

// Tiles multiply bfloat16; all else runs as with AVX-512. From 3 rows on they were the faster ones with a
// prototype.
namespace kq::amx {
int64_t many_bf16_packed(int64_t, int64_t);
int64_t many_bf16_scratch(int64_t);
void many_bf16_pack(const PackArgs&, int64_t, int64_t);
void many_bf16_multiply(const Linear4ManyArgs&, int64_t, int64_t, float*);

static Kernels with_tiles(Kernels table) {
    table.many_bf16 = {many_bf16_packed, many_bf16_scratch, many_bf16_pack, many_bf16_multiply};
    table.few_rows_limit_bf16 = 2;
    return table;
}
extern const Kernels kernels = with_tiles(avx512::kernels);
}  // namespace kq::amx
#endif
