// Nearest 8-bit codes of a block, decided exactly (see quantize_4bit.inl.h).
#pragma once

#include "kernels/absmax.inl.h"

namespace kq::KQ_ISA {

template <class T>
static inline void encode_block_8bit(const T* x, int64_t n, float scale, const Codebook8& book,
                                     uint8_t* codes) {
    if (!has_ratios(scale)) {
        std::memset(codes, book.zero, static_cast<size_t>(n));
        return;
    }
    float thresholds[256];
    products_down(book.thresholds, scale, thresholds, 256);
    const Heap256 tree(thresholds);
    int64_t i = 0;
    for (; i + W <= n; i += W) store_u8(codes + i, minus(tree.walk(load(x + i)), 256));
    if (i < n) {
        const int rest = static_cast<int>(n - i);
        store_u8_n(codes + i, minus(tree.walk(load_n(x + i, rest)), 256), rest);
    }
}

}  // namespace kq::KQ_ISA
