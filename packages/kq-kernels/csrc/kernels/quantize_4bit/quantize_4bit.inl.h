// 4-bit quantization: a segment's scales first, then its codes, while its values are in the level-1 cache.
#pragma once

#include "kernels/absmax.inl.h"
#include "kernels/dtypes.inl.h"
#include "kernels/kernels.h"
#include "kernels/segments.inl.h"

namespace kq::KQ_ISA {

template <class Search, class T>
static inline void encode_run(const Search& code_of, const T* x, int64_t n, uint8_t* codes) {
    int64_t i = 0;
    for (; i + kGroup <= n; i += kGroup) encode_group(code_of, x + i, codes + i / 2);
    if (i < n) {
        // Zeros fill the tail, so the low nibble behind an odd row is the code of zero.
        T tail[kGroup] = {};
        uint8_t packed[kGroup / 2];
        std::memcpy(tail, x + i, static_cast<size_t>(n - i) * sizeof(T));
        encode_group(code_of, tail, packed);
        std::memcpy(codes + i / 2, packed, static_cast<size_t>((n - i + 1) / 2));
    }
}

// Any block; not inline, to keep the usual case short.
template <class T>
[[gnu::noinline]] static void encode_block(const T* x, int64_t n, float scale, const Codebook4& book,
                                           uint8_t* codes) {
    if (!has_ratios(scale)) {
        std::memset(codes, book.zero << 4 | book.zero, static_cast<size_t>((n + 1) / 2));
    } else if (book.regular && scale >= Search16<true>::kSmallestScale) {
        encode_run(Search16<true>(book, scale), x, n, codes);
    } else {
        encode_run(Search16<false>(book, scale), x, n, codes);
    }
}

template <class T>
[[gnu::always_inline]] static inline void encode_segment(const T* x, int64_t n, int64_t blocksize,
                                                         const float* absmax, const Codebook4& book,
                                                         uint8_t* codes) {
    // Scales for which Search16<true> is made, by the order of their bits.
    const uint32_t smallest = book.regular ? bits_of(Search16<true>::kSmallestScale) : kInfinityBits;
    for (; n > 0; n -= blocksize, x += blocksize, codes += blocksize / 2) {
        const float scale = *absmax++;
        if (n >= blocksize && bits_of(scale) - smallest < kInfinityBits - smallest) {
            encode_run(Search16<true>(book, scale), x, blocksize, codes);
        } else {
            encode_block(x, n < blocksize ? n : blocksize, scale, book, codes);
        }
    }
}

// Short blocks gain from loops of known length: BLOCKSIZE is that, or 0 for any.
template <class T, int64_t BLOCKSIZE>
static void quantize_blocks(const Quantize4Args& a, int64_t begin, int64_t end) {
    const Geometry& g = a.geometry;
    const int64_t blocksize = BLOCKSIZE != 0 ? BLOCKSIZE : g.blocksize;
    const int64_t per_row = g.blocks_per_row();
    const int block_shift = __builtin_ctzll(static_cast<unsigned long long>(blocksize));
    const int64_t segment = blocksize > 1024 ? blocksize : 1024;
    for_each_row(g, begin, end, [&](int64_t row, int64_t col, int64_t stop) {
        uint8_t* codes = a.codes + row * g.bytes_per_row();
        write_segments(codes, col / 2, (stop + 1) / 2, segment / 2, [&](int64_t byte, int64_t, uint8_t* to) {
            const int64_t start = 2 * byte;
            const int64_t n = stop - start < segment ? stop - start : segment;
            const T* x = static_cast<const T*>(a.x) + row * a.row_stride + start;
            float* absmax = a.absmax + row * per_row + (start >> block_shift);
            write_absmax(x, n, blocksize, absmax);
            encode_segment(x, n, blocksize, absmax, *a.book, to);
        });
    });
}

void quantize_4bit(const Quantize4Args& a, int64_t begin, int64_t end) {
    with_float_type(a.dtype, [&](auto t) {
        using T = decltype(t);
        if (a.geometry.blocksize == 64) {  // what almost everybody takes
            quantize_blocks<T, 64>(a, begin, end);
        } else {
            quantize_blocks<T, 0>(a, begin, end);
        }
    });
}

}  // namespace kq::KQ_ISA
