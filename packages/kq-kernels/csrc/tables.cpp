// The kernel tables, with the numbers of rows up to which the kernels for few rows are the faster ones.
//
// With a 4-bit weight, that is up to which decoding in registers is the faster kernel. It takes
// kFewRows at a time; on 4096 x 4096 (Xeon, one core) two such passes take 3.1, 3.3, 3.7 and 4.1 ms for 5 to
// 8 rows with AVX-512, where slivers take 3.8, 3.6, 3.9 and 4.1 ms; with AVX2, 7.5 against 8.3 ms for 8 rows.
//
// With an int8 weight of this size, slivers against rows as they are: 1.24 ms both for 16 rows, 1.34 and 1.38
// ms for 20 with VNNI (two cores); 5.4 and 5.7 ms for 16 with AVX-512; 8.4 ms both with AVX2.
#include "kernels/table.inl.h"

KQ_KERNEL_TABLE(scalar, 4, 4)
#if KQ_X86
KQ_KERNEL_TABLE(avx2, 8, 16)
KQ_KERNEL_TABLE(avx512, 7, 12)

// The products of int8 codes; all else runs as with AVX-512.
namespace kq::vnni {
KQ_INT8_PRODUCTS

static Kernels with_bytes(Kernels table) {
    table.int8.few = kInt8Few;
    table.int8.many = kInt8Many;
    table.int8.few_rows_limit = 16;
    return table;
}
extern const Kernels kernels = with_bytes(avx512::kernels);
}  // namespace kq::vnni

// Tiles multiply bfloat16 and, for many rows of x, int8 codes; all else runs as with VNNI.
//
// Which kernel is the faster one was not measured with these, for want of a processor with tiles. Prototypes
// with tiles were faster from 3 rows on with bfloat16, and read int8 weights at the speed of memory with 1 to
// 16 rows. The VNNI kernel comes close to that up to the 6 rows that it takes at a time: 4096 x 4096 take 1.5
// ms with 1 row, 1.7 ms with 6, and 1.9 ms with 7 (Xeon without tiles, one core).
namespace kq::amx {
int64_t many_bf16_packed(int64_t, int64_t);
int64_t many_bf16_scratch(int64_t);
void many_bf16_pack(const PackArgs&, int64_t, int64_t);
void many_bf16_multiply(const Linear4ManyArgs&, int64_t, int64_t, float*);
KQ_INT8_PRODUCT(many, kInt8Many)

static Kernels with_tiles(Kernels table) {
    table.many_bf16 = {many_bf16_packed, many_bf16_scratch, many_bf16_pack, many_bf16_multiply};
    table.few_rows_limit_bf16 = 2;
    table.int8.many = kInt8Many;
    table.int8.few_rows_limit = 6;
    return table;
}
extern const Kernels kernels = with_tiles(vnni::kernels);
}  // namespace kq::amx
#endif
