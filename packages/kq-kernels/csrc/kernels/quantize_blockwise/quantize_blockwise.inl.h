// 8-bit block-wise quantization with any sorted codebook of 256 values.
#pragma once

#include "kernels/dtypes.inl.h"
#include "kernels/kernels.h"
#include "kernels/quantize_blockwise/encode.inl.h"

namespace kq::KQ_ISA {

template <class T>
static void quantize_blocks_8bit(const Quantize8Args& a, int64_t begin, int64_t end) {
    const Geometry& g = a.geometry;
    const int64_t per_row = g.blocks_per_row();
    for (int64_t block = begin; block < end; ++block) {
        const int64_t row = block / per_row;
        const int64_t col = block % per_row * g.blocksize;
        const int64_t n = g.cols - col < g.blocksize ? g.cols - col : g.blocksize;
        const T* x = static_cast<const T*>(a.x) + row * a.row_stride + col;
        uint8_t* codes = a.codes + row * g.cols + col;
        const float scale = block_absmax(x, n);
        a.absmax[block] = scale;
        encode_block_8bit(x, n, scale, *a.book, codes);
    }
}

void quantize_blockwise(const Quantize8Args& a, int64_t begin, int64_t end) {
    with_float_type(a.dtype, [&](auto t) { quantize_blocks_8bit<decltype(t)>(a, begin, end); });
}

}  // namespace kq::KQ_ISA
