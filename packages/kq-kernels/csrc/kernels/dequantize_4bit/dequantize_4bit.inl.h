// 4-bit codes to values: code * absmax in float32, rounded once to the type of the output.
#pragma once

#include "kernels/dequantize_4bit/decode.inl.h"
#include "kernels/dtypes.inl.h"
#include "kernels/kernels.h"

namespace kq::KQ_ISA {

template <class T>
static void dequantize_blocks(const Dequantize4Args& a, int64_t begin, int64_t end) {
    const Geometry& g = a.geometry;
    const int64_t per_row = g.blocks_per_row();
    const Table16 values(a.book->values);
    for (int64_t block = begin; block < end; ++block) {
        const int64_t row = block / per_row;
        const int64_t col = block % per_row * g.blocksize;
        const int64_t stop = g.cols - col < g.blocksize ? g.cols : col + g.blocksize;
        T* out = static_cast<T*>(a.out) + row * g.cols + col;
        decode_row(a.codes, a.scales, g, values, row, col, stop, out);
    }
}

void dequantize_4bit(const Dequantize4Args& a, int64_t begin, int64_t end) {
    with_float_type(a.dtype, [&](auto t) { dequantize_blocks<decltype(t)>(a, begin, end); });
}

}  // namespace kq::KQ_ISA
