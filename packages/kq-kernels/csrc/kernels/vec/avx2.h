// Eight lanes with AVX2, FMA and F16C. The interface is explained in scalar.h.
#pragma once

#include <immintrin.h>

#include "types.h"

#define KQ_ISA avx2

namespace kq::avx2 {

constexpr int W = 8;
constexpr int FEW_GROUP = 2;
constexpr int TILE = 6;       // 12 accumulators, 2 vectors of weights and a broadcast in 16 registers
constexpr int PAIR_TILE = 0;  // two slivers would need 4 vectors of weights

using f32 = __m256;
using i32 = __m256i;

static inline f32 set1(float v) { return _mm256_set1_ps(v); }
static inline f32 add(f32 a, f32 b) { return _mm256_add_ps(a, b); }
static inline f32 sub(f32 a, f32 b) { return _mm256_sub_ps(a, b); }
static inline f32 mul(f32 a, f32 b) { return _mm256_mul_ps(a, b); }
static inline f32 div(f32 a, f32 b) { return _mm256_div_ps(a, b); }
static inline f32 sqrt(f32 a) { return _mm256_sqrt_ps(a); }
static inline f32 fma(f32 a, f32 b, f32 c) { return _mm256_fmadd_ps(a, b, c); }
// Of two values, the second if one is NaN.
static inline f32 max(f32 a, f32 b) { return _mm256_max_ps(a, b); }
// -1, 0 or 1; NaN for NaN.
static inline f32 sign(f32 a) {
    const __m256 sign_bit = set1(-0.0f);
    const __m256 signed_one = _mm256_or_ps(_mm256_and_ps(a, sign_bit), set1(1.0f));
    return _mm256_blendv_ps(a, signed_one, _mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_NEQ_OQ));
}

static inline __m256i first(int n) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lanes);
}

static inline f32 keep_first(f32 v, int n) { return _mm256_and_ps(v, _mm256_castsi256_ps(first(n))); }
// Lane i has the sum of v[i], in an order that does not depend on i.
static inline f32 sums(const f32 (&v)[FEW_GROUP]) {
    const f32 quarters =
        add(_mm256_permute2f128_ps(v[0], v[1], 0x20), _mm256_permute2f128_ps(v[0], v[1], 0x31));
    const f32 pairs = add(quarters, _mm256_permute_ps(quarters, 0x4e));
    return _mm256_permutevar8x32_ps(add(pairs, _mm256_permute_ps(pairs, 0xb1)),
                                    _mm256_setr_epi32(0, 4, 0, 0, 0, 0, 0, 0));
}

static inline f32 widen(__m128i v, bf16) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
}
static inline f32 widen(__m128i v, f16) { return _mm256_cvtph_ps(v); }
static inline __m128i narrow(f32 v, bf16) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i words = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}
static inline __m128i narrow(f32 v, f16) { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }

static inline f32 load(const float* p) { return _mm256_loadu_ps(p); }
static inline f32 load_n(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
static inline void store(float* p, f32 v) { _mm256_storeu_ps(p, v); }
static inline void store_n(float* p, f32 v, int n) { _mm256_maskstore_ps(p, first(n), v); }
template <class T>
static inline f32 load(const T* p) {
    return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), T{});
}
template <class T>
static inline f32 load_n(const T* p, int n) {
    T full[W] = {};
    std::memcpy(full, p, static_cast<size_t>(n) * sizeof(T));
    return load(full);
}
template <class T>
static inline void store(T* p, f32 v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(v, T{}));
}
template <class T>
static inline void store_n(T* p, f32 v, int n) {
    T full[W];
    store(full, v);
    std::memcpy(p, full, static_cast<size_t>(n) * sizeof(T));
}

static inline uint32_t magnitude_bits(uint32_t bits, bf16) { return bits << 16; }
static inline uint32_t magnitude_bits(uint32_t bits, f16) {
    return static_cast<uint32_t>(
        _mm_cvtsi128_si32(_mm_castps_si128(_mm_cvtph_ps(_mm_cvtsi32_si128(static_cast<int32_t>(bits))))));
}
static inline uint32_t largest_lane(__m256i v) {
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(m));
}
// Magnitudes of 16 bits are in the order of their bits, as those of 32 are.
template <class T>
struct AbsMax {
    static constexpr int kLanes = 2 * W;
    __m256i bits = _mm256_setzero_si256();
    void update(const T* p) {
        const __m256i loaded = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
        bits = _mm256_max_epi16(bits, _mm256_and_si256(loaded, _mm256_set1_epi16(0x7fff)));
    }
    uint32_t value() const {
        const __m256i even = _mm256_and_si256(bits, _mm256_set1_epi32(0xffff));
        return magnitude_bits(largest_lane(_mm256_max_epi32(even, _mm256_srli_epi32(bits, 16))), T{});
    }
};
template <>
struct AbsMax<float> {
    static constexpr int kLanes = W;
    __m256i bits = _mm256_setzero_si256();
    void update(f32 v) {
        const __m256i magnitude = _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7fffffff));
        bits = _mm256_max_epi32(bits, magnitude);
    }
    void update(const float* p) { update(load(p)); }
    uint32_t value() const { return largest_lane(bits); }
};

struct Table16 {
    f32 low, high;
    explicit Table16(const float* table) : low(load(table)), high(load(table + 8)) {}
    f32 operator[](i32 index) const {
        const f32 a = _mm256_permutevar8x32_ps(low, index);
        const f32 b = _mm256_permutevar8x32_ps(high, index);
        return _mm256_blendv_ps(a, b, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
    }
};

// Eight loads instead of a gather: not slower on processors with fast gathers, and several times faster
// where the mitigation of a vulnerability (Downfall) has slowed them down. Blends can run on three ports, the
// insertions that _mm256_setr_ps stands for only on one.
static inline f32 look_up(const float* table, i32 index) {
    alignas(32) int32_t i[W];
    _mm256_store_si256(reinterpret_cast<__m256i*>(i), index);
    // Without this, gcc makes extractions from the register of the loads, and they take three times as long.
    asm("" : "+m"(i));
    const auto at = [&](int lane) { return _mm256_broadcast_ss(table + i[lane]); };
    const f32 a = _mm256_blend_ps(at(0), at(1), 0x02), b = _mm256_blend_ps(at(2), at(3), 0x08);
    const f32 c = _mm256_blend_ps(at(4), at(5), 0x20), d = _mm256_blend_ps(at(6), at(7), 0x80);
    return _mm256_blend_ps(_mm256_blend_ps(a, b, 0x0c), _mm256_blend_ps(c, d, 0xc0), 0xf0);
}

struct Table256 {
    const float* t;
    explicit Table256(const float* table) : t(table) {}
    f32 operator[](i32 index) const { return look_up(t, index); }
};
static inline i32 load_u8(const uint8_t* p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
static inline i32 load_u8_n(const uint8_t* p, int n) {
    uint8_t full[W] = {};
    std::memcpy(full, p, static_cast<size_t>(n));
    return load_u8(full);
}

// A pair of codes is one 64-bit lane: the first in its low half, the second in its high half. The upper bits
// of an index are left as they come: look-ups use the low four.
static inline i32 unpack_pairs(const uint8_t* p) {
    int32_t word;
    std::memcpy(&word, p, 4);
    const i32 bytes = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(word));
    return _mm256_or_si256(_mm256_srli_epi64(bytes, 4), _mm256_slli_epi64(bytes, 32));
}
static inline void unpack(const uint8_t* p, i32* first_half, i32* second_half) {
    *first_half = unpack_pairs(p);
    *second_half = unpack_pairs(p + 4);
}

static inline f32 as_floats(i32 v) { return _mm256_castsi256_ps(v); }
static inline i32 as_bits(f32 v) { return _mm256_castps_si256(v); }
static inline i32 zero_i32() { return _mm256_setzero_si256(); }
static inline void transpose(i32 (&rows)[W]) {
    i32 t[W];
    for (int i = 0; i < W; i += 2) {  // 32-bit, then 64-bit elements within halves
        t[i] = _mm256_unpacklo_epi32(rows[i], rows[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < W; i += 4) {
        for (int j = 0; j < 2; ++j) {
            rows[i + 2 * j] = _mm256_unpacklo_epi64(t[i + j], t[i + j + 2]);
            rows[i + 2 * j + 1] = _mm256_unpackhi_epi64(t[i + j], t[i + j + 2]);
        }
    }
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm256_permute2x128_si256(rows[i], rows[i + 4], 0x20);
        t[i + 4] = _mm256_permute2x128_si256(rows[i], rows[i + 4], 0x31);
    }
    for (int i = 0; i < W; ++i) rows[i] = t[i];
}
template <class T>
struct Decoder16 {
    static constexpr int kCodes = 4 * W;
    __m256i low_bytes, high_bytes;  // of the 16 values, the same in both halves
    Decoder16(const Table16& table, f32 scale) {
        const __m128i low = narrow(mul(table.low, scale), T{});
        const __m128i high = narrow(mul(table.high, scale), T{});
        const __m128i byte = _mm_set1_epi16(0xff);
        const __m128i even = _mm_packus_epi16(_mm_and_si128(low, byte), _mm_and_si128(high, byte));
        const __m128i odd = _mm_packus_epi16(_mm_srli_epi16(low, 8), _mm_srli_epi16(high, 8));
        low_bytes = _mm256_broadcastsi128_si256(even);
        high_bytes = _mm256_broadcastsi128_si256(odd);
    }
    void operator()(const uint8_t* codes, T* out) const {
        const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
        // The low eight indices of a half become half of the first vector, the others of the second.
        const __m256i words = _mm256_cvtepu8_epi16(_mm_shuffle_epi32(packed, 0xd8));
        const __m256i both = _mm256_or_si256(_mm256_srli_epi16(words, 4), _mm256_slli_epi16(words, 8));
        const __m256i index = _mm256_and_si256(both, _mm256_set1_epi8(15));
        const __m256i low = _mm256_shuffle_epi8(low_bytes, index);
        const __m256i high = _mm256_shuffle_epi8(high_bytes, index);
        __m256i* to = reinterpret_cast<__m256i*>(out);
        _mm256_storeu_si256(to, _mm256_unpacklo_epi8(low, high));
        _mm256_storeu_si256(to + 1, _mm256_unpackhi_epi8(low, high));
    }
};
template <>
struct Decoder16<float> {
    static constexpr int kCodes = 2 * W;
    Table16 values;
    Decoder16(const Table16& table, f32 scale) : values(table) {
        values.low = mul(values.low, scale);
        values.high = mul(values.high, scale);
    }
    void operator()(const uint8_t* codes, float* out) const {
        i32 first, second;
        unpack(codes, &first, &second);
        store(out, values[first]);
        store(out + W, values[second]);
    }
};

static inline i32 load_u32(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
static inline i32 load_u32_n(const uint8_t* p, int bytes) {
    uint8_t all[4 * W] = {};
    std::memcpy(all, p, static_cast<size_t>(bytes));
    return load_u32(all);
}
template <int N>
static inline i32 shift_right(i32 v) {
    return _mm256_srli_epi32(v, N);
}
struct SpreadScales {
    int shift;
    i32 index;
    explicit SpreadScales(int64_t blocksize)
        : shift(__builtin_ctzll(static_cast<unsigned long long>(blocksize))),
          index(_mm256_srl_epi32(_mm256_setr_epi32(0, 8, 16, 24, 32, 40, 48, 56), _mm_cvtsi32_si128(shift))) {
    }
    f32 operator()(const float* scales, int64_t col) const {
        return _mm256_permutevar_ps(
            _mm256_broadcast_ps(reinterpret_cast<const __m128*>(scales + (col >> shift))), index);
    }
};

// Not _mm_prefetch: gcc takes a function that only calls it for one without effects, and drops the calls.
static inline void prefetch(const void* p) {
    asm volatile("prefetcht0 %0" : : "m"(*static_cast<const char*>(p)));
}
static inline void prefetch_l2(const void* p) {
    asm volatile("prefetcht1 %0" : : "m"(*static_cast<const char*>(p)));
}

}  // namespace kq::avx2
