// 4-bit codes to values: code * absmax in float32, rounded once to the type of the output.
#pragma once

#include "kernels/dequantize_4bit/decode.inl.h"
#include "kernels/dtypes.inl.h"
#include "kernels/kernels.h"
#include "kernels/segments.inl.h"

namespace kq::KQ_ISA {

template <class T>
static void dequantize_blocks(const Dequantize4Args& a, int64_t begin, int64_t end) {
    const Geometry& g = a.geometry;
    const Table16 values(a.book->values);
    constexpr int64_t kSegment = kSegmentBytes / sizeof(T);
    for_each_row(g, begin, end, [&](int64_t row, int64_t col, int64_t stop) {
        const auto decode = [&](int64_t start, int64_t n, T* to) {
            decode_row(a.codes, a.scales, g, values, row, start, start + n, to);
        };
        write_segments(static_cast<T*>(a.out) + row * g.cols, col, stop, kSegment, decode);
    });
}

void dequantize_4bit(const Dequantize4Args& a, int64_t begin, int64_t end) {
    with_float_type(a.dtype, [&](auto t) { dequantize_blocks<decltype(t)>(a, begin, end); });
}

}  // namespace kq::KQ_ISA
