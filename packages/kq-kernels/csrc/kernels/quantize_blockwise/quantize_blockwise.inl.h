// 8-bit block-wise quantization with any sorted codebook of 256 values.
#pragma once

#include "kernels/dtypes.inl.h"
#include "kernels/kernels.h"
#include "kernels/quantize_blockwise/encode.inl.h"
#include "kernels/segments.inl.h"

namespace kq::KQ_ISA {

template <class T>
static void quantize_blocks_8bit(const Quantize8Args& a, int64_t begin, int64_t end) {
    const Geometry& g = a.geometry;
    const int64_t per_row = g.blocks_per_row();
    const int64_t blocks_at_once = g.blocksize < kSegmentBytes ? kSegmentBytes / g.blocksize : 1;
    for_each_row(g, begin, end, [&](int64_t row, int64_t col, int64_t stop) {
        const T* x = static_cast<const T*>(a.x) + row * a.row_stride;
        float* absmax = a.absmax + row * per_row + col / g.blocksize;
        const auto encode = [&](int64_t start, int64_t count, uint8_t* to) {
            for (int64_t i = 0; i < count; i += g.blocksize) {
                const int64_t n = count - i < g.blocksize ? count - i : g.blocksize;
                prefetch_ahead(x + start + i, n);
                *absmax = block_absmax(x + start + i, n);
                encode_block_8bit(x + start + i, n, *absmax++, *a.book, to + i);
            }
        };
        write_segments(a.codes + row * g.cols, col, stop, blocks_at_once * g.blocksize, encode);
    });
}

void quantize_blockwise(const Quantize8Args& a, int64_t begin, int64_t end) {
    with_float_type(a.dtype, [&](auto t) { quantize_blocks_8bit<decltype(t)>(a, begin, end); });
}

}  // namespace kq::KQ_ISA
