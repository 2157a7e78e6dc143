// Sixteen lanes with AVX-512 F, BW, DQ and VL. The interface is explained in scalar.h.
#pragma once

#include <immintrin.h>

#include "types.h"

#define KQ_ISA avx512

namespace kq::avx512 {

constexpr int W = 16;
constexpr int FEW_GROUP = 4;
constexpr int TILE = 14;      // 28 accumulators, 2 vectors of weights and a broadcast in 32 registers
constexpr int PAIR_TILE = 6;  // 24 accumulators, 4 vectors of weights and a broadcast

using f32 = __m512;
using i32 = __m512i;

static inline f32 set1(float v) { return _mm512_set1_ps(v); }
static inline f32 add(f32 a, f32 b) { return _mm512_add_ps(a, b); }
static inline f32 sub(f32 a, f32 b) { return _mm512_sub_ps(a, b); }
static inline f32 mul(f32 a, f32 b) { return _mm512_mul_ps(a, b); }
static inline f32 div(f32 a, f32 b) { return _mm512_div_ps(a, b); }
static inline f32 sqrt(f32 a) { return _mm512_sqrt_ps(a); }
static inline f32 fma(f32 a, f32 b, f32 c) { return _mm512_fmadd_ps(a, b, c); }
// Of two values, the second if one is NaN.
static inline f32 max(f32 a, f32 b) { return _mm512_max_ps(a, b); }
// -1, 0 or 1; NaN for NaN.
static inline f32 sign(f32 a) {
    constexpr int kChoose = 0xca;  // the first operand's bits choose between the second and the third
    const __m512i one = _mm512_castps_si512(set1(1.0f));
    const __m512i signed_one =
        _mm512_ternarylogic_epi32(_mm512_set1_epi32(INT32_MIN), _mm512_castps_si512(a), one, kChoose);
    const __mmask16 ordered = _mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_NEQ_OQ);
    return _mm512_mask_mov_ps(a, ordered, _mm512_castsi512_ps(signed_one));
}

static inline __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }

static inline f32 widen(__m256i v, bf16) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
}
static inline f32 widen(__m256i v, f16) { return _mm512_cvtph_ps(v); }
static inline __m256i narrow(f32 v, bf16) {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, nan, quiet), 16));
}
static inline __m256i narrow(f32 v, f16) { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }

static inline f32 keep_first(f32 v, int n) { return _mm512_maskz_mov_ps(first(n), v); }
// Lane i has the sum of v[i], in an order that does not depend on i.
static inline f32 sums(const f32 (&v)[FEW_GROUP]) {
    const auto halves = [](f32 a, f32 b) {
        return add(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    };
    const f32 two = halves(v[0], v[1]), other_two = halves(v[2], v[3]);
    const f32 quarters =
        add(_mm512_shuffle_f32x4(two, other_two, 0x88), _mm512_shuffle_f32x4(two, other_two, 0xdd));
    const f32 pairs = add(quarters, _mm512_permute_ps(quarters, 0x4e));
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
                                 add(pairs, _mm512_permute_ps(pairs, 0xb1)));
}

static inline f32 load(const float* p) { return _mm512_loadu_ps(p); }
static inline f32 load_n(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
static inline void store(float* p, f32 v) { _mm512_storeu_ps(p, v); }
static inline void store_n(float* p, f32 v, int n) { _mm512_mask_storeu_ps(p, first(n), v); }
template <class T>
static inline f32 load(const T* p) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), T{});
}
template <class T>
static inline f32 load_n(const T* p, int n) {
    return widen(_mm256_maskz_loadu_epi16(first(n), p), T{});
}
template <class T>
static inline void store(T* p, f32 v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(v, T{}));
}
template <class T>
static inline void store_n(T* p, f32 v, int n) {
    _mm256_mask_storeu_epi16(p, first(n), narrow(v, T{}));
}

static inline uint32_t magnitude_bits(uint32_t bits, bf16) { return bits << 16; }
static inline uint32_t magnitude_bits(uint32_t bits, f16) {
    return static_cast<uint32_t>(
        _mm_cvtsi128_si32(_mm_castps_si128(_mm_cvtph_ps(_mm_cvtsi32_si128(static_cast<int32_t>(bits))))));
}
// Magnitudes of 16 bits are in the order of their bits, as those of 32 are.
template <class T>
struct AbsMax {
    static constexpr int kLanes = 2 * W;
    __m512i bits = _mm512_setzero_si512();
    void update(const T* p) {
        const __m512i magnitude = _mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi16(0x7fff));
        bits = _mm512_max_epi16(bits, magnitude);
    }
    uint32_t value() const {
        const __m512i even = _mm512_and_si512(bits, _mm512_set1_epi32(0xffff));
        const __m512i largest = _mm512_max_epi32(even, _mm512_srli_epi32(bits, 16));
        return magnitude_bits(static_cast<uint32_t>(_mm512_reduce_max_epi32(largest)), T{});
    }
};
template <>
struct AbsMax<float> {
    static constexpr int kLanes = W;
    __m512i bits = _mm512_setzero_si512();
    void update(f32 v) {
        const __m512i magnitude = _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff));
        bits = _mm512_max_epi32(bits, magnitude);
    }
    void update(const float* p) { update(load(p)); }
    uint32_t value() const { return static_cast<uint32_t>(_mm512_reduce_max_epi32(bits)); }
};

struct Table16 {
    f32 t;
    explicit Table16(const float* table) : t(_mm512_loadu_ps(table)) {}
    f32 operator[](i32 index) const { return _mm512_permutexvar_ps(index, t); }
};

// Permutations of 32 values at a time instead of gathers, which the mitigation of a processor
// vulnerability (Downfall) has made several times slower on many machines.
static inline f32 look_up_32(const float* table, i32 index) {
    return _mm512_permutex2var_ps(load(table), index, load(table + 16));
}
static inline f32 look_up_64(const float* table, i32 index, __mmask16 bit5) {
    return _mm512_mask_blend_ps(bit5, look_up_32(table, index), look_up_32(table + 32, index));
}
static inline f32 look_up_128(const float* table, i32 index, __mmask16 bit5, __mmask16 bit6) {
    return _mm512_mask_blend_ps(bit6, look_up_64(table, index, bit5), look_up_64(table + 64, index, bit5));
}
static inline __mmask16 has_bit(i32 index, int bit) {
    return _mm512_test_epi32_mask(index, _mm512_set1_epi32(1 << bit));
}

struct Table256 {
    const float* t;
    explicit Table256(const float* table) : t(table) {}
    f32 operator[](i32 index) const {
        const __mmask16 bit5 = has_bit(index, 5), bit6 = has_bit(index, 6);
        return _mm512_mask_blend_ps(has_bit(index, 7), look_up_128(t, index, bit5, bit6),
                                    look_up_128(t + 128, index, bit5, bit6));
    }
};
static inline i32 load_u8(const uint8_t* p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
static inline i32 load_u8_n(const uint8_t* p, int n) {
    return _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first(n), p));
}

// A pair of codes is one 64-bit lane: the first in its low half, the second in its high half. The upper bits
// of an index are left as they come: look-ups use the low four.
static inline i32 unpack_pairs(const uint8_t* p) {
    const i32 bytes = _mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    return _mm512_or_si512(_mm512_srli_epi64(bytes, 4), _mm512_slli_epi64(bytes, 32));
}
static inline void unpack(const uint8_t* p, i32* first_half, i32* second_half) {
    *first_half = unpack_pairs(p);
    *second_half = unpack_pairs(p + 8);
}

static inline f32 as_floats(i32 v) { return _mm512_castsi512_ps(v); }
static inline i32 as_bits(f32 v) { return _mm512_castps_si512(v); }
static inline i32 zero_i32() { return _mm512_setzero_si512(); }
static inline void transpose(i32 (&rows)[W]) {
    i32 t[W];
    for (int i = 0; i < W; i += 2) {  // 32-bit, then 64-bit elements within quarters
        t[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < W; i += 4) {
        for (int j = 0; j < 2; ++j) {
            rows[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
            rows[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
        }
    }
    // Quarter q of rows[4 b + i] holds rows 4 b..4 b + 3 of column 4 q + i: quarters are transposed last.
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; ++i) {
        rows[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        rows[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        rows[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        rows[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}
template <class T>
struct Decoder16 {
    static constexpr int kCodes = 2 * W;
    i32 values;  // twice the 16 values: the fifth bit of an index does not matter
    Decoder16(const Table16& table, f32 scale)
        : values(_mm512_broadcast_i64x4(narrow(mul(table.t, scale), T{}))) {}
    void operator()(const uint8_t* codes, T* out) const {
        const i32 bytes = load_u8(codes);
        const i32 words = _mm512_or_si512(_mm512_srli_epi32(bytes, 4), _mm512_slli_epi32(bytes, 16));
        _mm512_storeu_si512(out, _mm512_permutexvar_epi16(words, values));
    }
};
template <>
struct Decoder16<float> {
    static constexpr int kCodes = 2 * W;
    f32 values;
    Decoder16(const Table16& table, f32 scale) : values(mul(table.t, scale)) {}
    void operator()(const uint8_t* codes, float* out) const {
        i32 first, second;
        unpack(codes, &first, &second);
        store(out, _mm512_permutexvar_ps(first, values));
        store(out + W, _mm512_permutexvar_ps(second, values));
    }
};

static inline i32 load_u32(const uint8_t* p) { return _mm512_loadu_si512(p); }
static inline i32 load_u32_n(const uint8_t* p, int bytes) {
    return _mm512_maskz_loadu_epi8((__mmask64{1} << bytes) - 1, p);
}
template <int N>
static inline i32 shift_right(i32 v) {
    return _mm512_srli_epi32(v, N);
}
struct SpreadScales {
    int shift;
    i32 index;
    explicit SpreadScales(int64_t blocksize)
        : shift(__builtin_ctzll(static_cast<unsigned long long>(blocksize))),
          index(_mm512_srl_epi32(
              _mm512_setr_epi32(0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120),
              _mm_cvtsi32_si128(shift))) {}
    f32 operator()(const float* scales, int64_t col) const {
        return _mm512_permutevar_ps(_mm512_broadcast_f32x4(_mm_loadu_ps(scales + (col >> shift))), index);
    }
};

// Not _mm_prefetch: gcc takes a function that only calls it for one without effects, and drops the calls.
static inline void prefetch(const void* p) {
    asm volatile("prefetcht0 %0" : : "m"(*static_cast<const char*>(p)));
}
static inline void prefetch_l2(const void* p) {
    asm volatile("prefetcht1 %0" : : "m"(*static_cast<const char*>(p)));
}

}  // namespace kq::avx512
