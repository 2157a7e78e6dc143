// Nearest 8-bit codes of a block, decided exactly.
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
    constexpr int64_t kCodes = Search256::kCodes;
    const Search256 encode(book, scale);
    int64_t i = 0;
    for (; i + kCodes <= n; i += kCodes) encode(x + i, codes + i);
    if (i < n) {
        T tail[kCodes] = {};
        uint8_t encoded[kCodes];
        std::memcpy(tail, x + i, static_cast<size_t>(n - i) * sizeof(T));
        encode(tail, encoded);
        std::memcpy(codes + i, encoded, static_cast<size_t>(n - i));
    }
}

}  // namespace kq::KQ_ISA
