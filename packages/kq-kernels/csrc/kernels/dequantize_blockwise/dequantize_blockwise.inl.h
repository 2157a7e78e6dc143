// 8-bit codes to values: code * absmax in float32, rounded once to the type of the output.
#pragma once

#include "kernels/dtypes.inl.h"
#include "kernels/kernels.h"

namespace kq::KQ_ISA {

template <class T>
static void dequantize_blocks_8bit(const Dequantize8Args& a, int64_t begin, int64_t end) {
    const Geometry& g = a.geometry;
    const int64_t per_row = g.blocks_per_row();
    const Table256 values(a.values);
    for (int64_t block = begin; block < end; ++block) {
        const int64_t col = block % per_row * g.blocksize;
        const int64_t n = g.cols - col < g.blocksize ? g.cols - col : g.blocksize;
        const int64_t start = block / per_row * g.cols + col;
        const uint8_t* codes = a.codes + start;
        T* out = static_cast<T*>(a.out) + start;
        const f32 scale = set1(a.absmax[block]);
        int64_t i = 0;
        for (; i + W <= n; i += W) store(out + i, mul(values[load_u8(codes + i)], scale));
        if (i < n) {
            const int rest = static_cast<int>(n - i);
            store_n(out + i, mul(values[load_u8_n(codes + i, rest)], scale), rest);
        }
    }
}

void dequantize_blockwise(const Dequantize8Args& a, int64_t begin, int64_t end) {
    with_float_type(a.dtype, [&](auto t) { dequantize_blocks_8bit<decltype(t)>(a, begin, end); });
}

}  // namespace kq::KQ_ISA
