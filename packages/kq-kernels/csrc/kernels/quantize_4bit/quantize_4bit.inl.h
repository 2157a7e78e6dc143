// Nearest 4-bit codes of x / absmax, decided exactly: x > t * absmax is compared with the largest float32
// that is not above the product, so no quotient is rounded and denormal scales need no special case.
#pragma once

#include "kernels/absmax.inl.h"
#include "kernels/dtypes.inl.h"
#include "kernels/kernels.h"

namespace kq::KQ_ISA {

template <class T>
static inline void encode_pairs(const T* x, uint8_t* codes, const Heap16& thresholds, const Map16& code) {
    const i32 first = code[thresholds.walk(load(x))];
    const i32 second = code[thresholds.walk(load(x + W))];
    pack(codes, first, second);
}

template <class T>
static inline void encode_block(const T* x, int64_t n, float scale, const Codebook4& book, const Map16& code,
                                uint8_t* codes) {
    if (!has_ratios(scale)) {
        std::memset(codes, book.zero << 4 | book.zero, static_cast<size_t>((n + 1) / 2));
        return;
    }
    float scaled[16];
    products_down(book.thresholds, scale, scaled, 16);
    const Heap16 thresholds(scaled);
    int64_t i = 0;
    for (; i + 2 * W <= n; i += 2 * W) encode_pairs(x + i, codes + i / 2, thresholds, code);
    if (i < n) {
        // Zeros fill the tail, so the low nibble behind an odd row is the code of zero.
        T tail[2 * W] = {};
        uint8_t packed[W];
        std::memcpy(tail, x + i, static_cast<size_t>(n - i) * sizeof(T));
        encode_pairs(tail, packed, thresholds, code);
        std::memcpy(codes + i / 2, packed, static_cast<size_t>((n - i + 1) / 2));
    }
}

template <class T>
static void quantize_blocks(const Quantize4Args& a, int64_t begin, int64_t end) {
    const Geometry& g = a.geometry;
    const int64_t per_row = g.blocks_per_row();
    const Map16 code(a.book->code_of_rank);
    for (int64_t block = begin; block < end; ++block) {
        const int64_t row = block / per_row;
        const int64_t col = block % per_row * g.blocksize;
        const int64_t n = g.cols - col < g.blocksize ? g.cols - col : g.blocksize;
        const T* x = static_cast<const T*>(a.x) + row * a.row_stride + col;
        const float scale = block_absmax(x, n);
        a.absmax[block] = scale;
        encode_block(x, n, scale, *a.book, code, a.codes + row * g.bytes_per_row() + col / 2);
    }
}

void quantize_4bit(const Quantize4Args& a, int64_t begin, int64_t end) {
    with_float_type(a.dtype, [&](auto t) { quantize_blocks<decltype(t)>(a, begin, end); });
}

}  // namespace kq::KQ_ISA
