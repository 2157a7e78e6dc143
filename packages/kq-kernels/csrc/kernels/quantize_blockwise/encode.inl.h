// Nearest 8-bit codes of a block, decided exactly (see quantize_4bit.inl.h).
#pragma once

#include "kernels/absmax.inl.h"

namespace kq::KQ_ISA {

static inline i32 nearest_code(f32 x, const Heap16& top, const float* thresholds) {
    i32 node = top.walk(x);
    for (int level = 4; level < 8; ++level) node = walk_gather(x, thresholds, node);
    return minus(node, 256);
}

template <class T>
static inline void encode_block_8bit(const T* x, int64_t n, float scale, const Codebook8& book,
                                     uint8_t* codes) {
    if (!has_ratios(scale)) {
        std::memset(codes, book.zero, static_cast<size_t>(n));
        return;
    }
    float thresholds[256];
    products_down(book.thresholds, scale, thresholds, 256);
    const Heap16 top(thresholds);
    int64_t i = 0;
    for (; i + W <= n; i += W) store_u8(codes + i, nearest_code(load(x + i), top, thresholds));
    if (i < n) {
        const int rest = static_cast<int>(n - i);
        store_u8_n(codes + i, nearest_code(load_n(x + i, rest), top, thresholds), rest);
    }
}

}  // namespace kq::KQ_ISA
