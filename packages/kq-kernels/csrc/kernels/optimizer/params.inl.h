// Parameters on their way to float32 and back. Plain loops, which compilers turn into vectors; their
// arithmetic is on integers, so that all instruction sets give the same bits.
#pragma once

#include "kernels/dtypes.inl.h"
#include "kernels/optimizer/args.h"

namespace kq::KQ_ISA {

template <class T>
static inline void widen_n(const T* from, int64_t n, float* to) {
    int64_t i = 0;
    for (; i + W <= n; i += W) store(to + i, load(from + i));
    if (i < n) store(to + i, load_n(from + i, static_cast<int>(n - i)));  // the rest of the vector: zeros
}

template <class T>
static inline void narrow_n(const float* from, int64_t n, T* to) {
    int64_t i = 0;
    for (; i + W <= n; i += W) store(to + i, load(from + i));
    if (i < n) store_n(to + i, load(from + i), static_cast<int>(n - i));
}

static inline uint32_t nearest_bf16(uint32_t bits) {
    const bool nan = (bits & 0x7fffffffu) > kInfinityBits;
    return nan ? bits >> 16 | 0x40u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

// 32 random bits of element i: a hash of its number, keyed before and after the first half.
static inline uint32_t random_bits(uint64_t i, const Randomness& key) {
    uint32_t h = static_cast<uint32_t>(i) ^ key.low;
    h ^= h >> 16;
    h *= 0x7feb352du;
    h ^= h >> 15;
    h *= 0x846ca68bu;
    h ^= h >> 16;
    h += key.high + 0x9e3779b9u * static_cast<uint32_t>(i >> 32);
    h ^= h >> 16;
    h *= 0x7feb352du;
    h ^= h >> 15;
    return h;
}

// Rounds up with a probability of the part that is lost. NaN and infinity stay what they are, and what would
// be finite to the nearest stays finite.
static inline void narrow_stochastic(const float* from, int64_t n, uint64_t first, const Randomness& key,
                                     bf16* to) {
    for (int64_t i = 0; i < n; ++i) {
        const uint32_t bits = bits_of(from[i]);
        const uint32_t nearest = nearest_bf16(bits);
        const uint32_t drawn = (bits + (random_bits(first + static_cast<uint64_t>(i), key) & 0xffffu)) >> 16;
        const bool special = (bits & 0x7f800000u) == 0x7f800000u;
        const bool pushed = (drawn & 0x7fffu) == 0x7f80u && (nearest & 0x7fffu) != 0x7f80u;
        const uint32_t kept = pushed ? bits >> 16 : drawn;
        to[i].bits = static_cast<uint16_t>(special ? nearest : kept);
    }
}

// A 24-bit number in three bytes: the nearest bfloat16, and how far the number is from it in units of 2^-8 of
// its last place.
static inline void widen_corrected(const bf16* from, const int8_t* correction, int64_t n, float* to) {
    for (int64_t i = 0; i < n; ++i) {
        const uint32_t shift = static_cast<uint32_t>(static_cast<int32_t>(correction[i])) << 8;
        to[i] = float_from_bits((static_cast<uint32_t>(from[i].bits) << 16) + shift);
    }
}

static inline void narrow_corrected(const float* from, int64_t n, bf16* to, int8_t* correction) {
    for (int64_t i = 0; i < n; ++i) {
        const uint32_t bits = bits_of(from[i]);
        const uint32_t rounded = (bits + 0x7fu + (bits >> 8 & 1u)) & 0xffffff00u;
        const uint32_t half = (rounded + 0x8000u) >> 16;
        const uint32_t lost = (rounded - (half << 16)) >> 8 & 0xffu;
        const bool special = (bits & 0x7f800000u) == 0x7f800000u;
        const bool beyond = (half & 0x7fffu) >= 0x7f80u;
        const uint32_t largest = (bits >> 16 & 0x8000u) | 0x7f7fu;
        to[i].bits = static_cast<uint16_t>(special ? nearest_bf16(bits) : beyond ? largest : half);
        correction[i] = static_cast<int8_t>(special ? 0u : beyond ? 127u : lost);
    }
}

}  // namespace kq::KQ_ISA
