// Encoding with one lane: the meaning of the interface that avx2_codes.h and avx512_codes.h implement.
//
//   Search16      nearest 4-bit codes for one scale; Search16<true> is for scales from kSmallestScale up and
//                 regular codebooks (codebooks.h)
//   encode_group  kGroup values to packed 4-bit codes
//   Search256     nearest 8-bit codes for one scale, kCodes at a time
//
// Decisions are exact: x > t * scale is compared with the largest float32 that is not above the product, so
// no quotient is rounded.
#pragma once

#include "codebooks.h"
#include "kernels/vec/scalar.h"

namespace kq::scalar {

// Largest float32 that is not above the product, which is exact in float64.
static inline float product_down(double t, double s) {
    const double product = t * s;
    const float nearest = static_cast<float>(product);
    return nearest > product ? std::nextafter(nearest, -INFINITY) : nearest;
}

template <bool kRegular>
struct Search16 {
    static constexpr float kSmallestScale = 0x1p-149f;
    float tree[16];
    const int32_t* code_of_rank;
    Search16(const Codebook4& book, float scale) : code_of_rank(book.code_of_rank) {
        for (int i = 0; i < 16; ++i) tree[i] = product_down(book.tree[i], scale);
    }
    i32 operator()(f32 x) const {
        i32 node = 1;
        for (int level = 0; level < 4; ++level) node = 2 * node + (x > tree[node] ? 1 : 0);
        return code_of_rank[node - 16];
    }
};

constexpr int kGroup = 2;
template <class Search, class T>
static inline void encode_group(const Search& code_of, const T* x, uint8_t* codes) {
    *codes = static_cast<uint8_t>(code_of(load(x)) << 4 | code_of(load(x + 1)));
}

struct Search256 {
    static constexpr int kCodes = 1;
    float tree[256];
    Search256(const Codebook8& book, float scale) {
        for (int i = 0; i < 256; ++i) tree[i] = product_down(book.tree[i], scale);
    }
    template <class T>
    void operator()(const T* x, uint8_t* codes) const {
        const f32 v = load(x);
        int path = 0;
        for (int level = 0; level < 8; ++level) {
            path |= (v > tree[(1 << level) + path] ? 1 : 0) << level;
        }
        *codes = reversed_bits(path, 8);
    }
};

}  // namespace kq::scalar
