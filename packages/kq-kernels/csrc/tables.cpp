// The kernel tables, with the number of rows up to which decoding in registers is the faster kernel. It takes
// kFewRows at a time; on 4096 x 4096 (Xeon, one core) two such passes take 3.1, 3.3, 3.7 and 4.1 ms for 5 to
// 8 rows with AVX-512, where slivers take 3.8, 3.6, 3.9 and 4.1 ms; with AVX2, 7.5 against 8.3 ms for 8 rows.
#include "kernels/table.inl.h"

KQ_KERNEL_TABLE(scalar, 4, 4)
#if KQ_X86
KQ_KERNEL_TABLE(avx2, 8, 16)
KQ_KERNEL_TABLE(avx512, 7, 16)

// The products of int8 codes; all else runs as with AVX-512.
namespace kq::vnni {
KQ_INT8_PRODUCTS

static Kernels with_bytes(Kernels table) {
    table.int8.few = kInt8Few;
    table.int8.many = kInt8Many;
    table.int8.few_rows_limit = 32;
    return table;
}
extern const Kernels kernels = with_bytes(avx512::kernels);
}  // namespace kq::vnni

// Tiles multiply bfloat16; all else runs as with VNNI. From 3 rows on they were the faster ones with a
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
extern const Kernels kernels = with_tiles(vnni::kernels);
}  // namespace kq::amx
#endif
