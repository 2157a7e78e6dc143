// Nearest 8-bit codes of a block, decided exactly.
#pragma once

#include <type_traits>

#include "kernels/absmax.inl.h"

namespace kq::KQ_ISA {

// With a dynamic map, for scales that has_ranks accepts.
template <bool kNegatives>
static inline void encode_dynamic(const float* x, int64_t n, float scale, const Codebook8& book,
                                  uint8_t* codes) {
    using Encoder = DynamicEncoder<kNegatives>;
    constexpr int64_t kUnit = Encoder::kParts * W;
    const Encoder encode(book, scale);
    const auto unit = [&](const float* from, uint8_t* to) {
        typename Encoder::Ranks ranks;
        for (int part = 0; part < Encoder::kParts; ++part) encode.rank(from + part * W, part, ranks);
        encode.write(ranks, from, to);
    };
    int64_t i = 0;
    for (; i + kUnit <= n; i += kUnit) unit(x + i, codes + i);
    if (i < n) {
        float tail[kUnit] = {};
        uint8_t encoded[kUnit];
        std::memcpy(tail, x + i, static_cast<size_t>(n - i) * sizeof(float));
        unit(tail, encoded);
        std::memcpy(codes + i, encoded, static_cast<size_t>(n - i));
    }
}

// Values that may be negative ask for a search if the map has no negative ones.
template <class T>
static inline void encode_block_8bit(const T* x, int64_t n, float scale, const Codebook8& book,
                                     uint8_t* codes, bool negatives = true) {
    if (!has_ratios(scale)) {
        std::memset(codes, book.zero, static_cast<size_t>(n));
        return;
    }
    // The scales of 16-bit values have so few bits that has_ranks refuses them.
    if constexpr (std::is_same_v<T, float>) {
        if (has_ranks(book.dynamic, scale)) {
            if (book.dynamic.negatives) return encode_dynamic<true>(x, n, scale, book, codes);
            if (!negatives) return encode_dynamic<false>(x, n, scale, book, codes);
        }
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
