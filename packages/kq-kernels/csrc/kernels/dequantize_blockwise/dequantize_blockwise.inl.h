// 8-bit codes to values: code * absmax in float32, rounded once to the type of the output.
#pragma once

#include "kernels/dtypes.inl.h"
#include "kernels/kernels.h"
#include "kernels/segments.inl.h"

namespace kq::KQ_ISA {

template <class T>
static inline void decode_run_8bit(const uint8_t* codes, int64_t n, float absmax, const Table256& values,
                                   T* out) {
    const f32 scale = set1(absmax);
    int64_t i = 0;
    for (; i + W <= n; i += W) store(out + i, mul(values[load_u8(codes + i)], scale));
    if (i < n) {
        const int rest = static_cast<int>(n - i);
        store_n(out + i, mul(values[load_u8_n(codes + i, rest)], scale), rest);
    }
}

template <class T>
static void dequantize_blocks_8bit(const Dequantize8Args& a, int64_t begin, int64_t end) {
    const Geometry& g = a.geometry;
    const int64_t per_row = g.blocks_per_row();
    const Table256 values(a.values);
    constexpr int64_t kSegment = kSegmentBytes / sizeof(T);
    for_each_row(g, begin, end, [&](int64_t row, int64_t col, int64_t stop) {
        const uint8_t* codes = a.codes + row * g.cols;
        const float* absmax = a.absmax + row * per_row;
        const auto decode = [&](int64_t start, int64_t count, T* to) {
            int64_t block = start / g.blocksize;
            for (int64_t i = start; i < start + count; ++block) {
                const int64_t limit = (block + 1) * g.blocksize;
                const int64_t end_of_run = limit < start + count ? limit : start + count;
                decode_run_8bit(codes + i, end_of_run - i, absmax[block], values, to + (i - start));
                i = end_of_run;
            }
        };
        write_segments(static_cast<T*>(a.out) + row * g.cols, col, stop, kSegment, decode);
    });
}

void dequantize_blockwise(const Dequantize8Args& a, int64_t begin, int64_t end) {
    with_float_type(a.dtype, [&](auto t) { dequantize_blocks_8bit<decltype(t)>(a, begin, end); });
}

}  // namespace kq::KQ_ISA
