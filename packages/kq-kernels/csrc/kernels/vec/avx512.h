// Sixteen lanes with AVX-512 F, BW, DQ and VL. The interface is explained in scalar.h.
#pragma once

#include <immintrin.h>

#include "types.h"

#define KQ_ISA avx512

namespace kq::avx512 {

constexpr int W = 16;
constexpr int FEW_GROUP = 4;
constexpr int TILE = 14;  // 28 accumulators, 2 vectors of weights and a broadcast in 32 registers

using f32 = __m512;
using i32 = __m512i;

static inline f32 set1(float v) { return _mm512_set1_ps(v); }
static inline f32 add(f32 a, f32 b) { return _mm512_add_ps(a, b); }
static inline f32 sub(f32 a, f32 b) { return _mm512_sub_ps(a, b); }
static inline f32 mul(f32 a, f32 b) { return _mm512_mul_ps(a, b); }
static inline f32 div(f32 a, f32 b) { return _mm512_div_ps(a, b); }
static inline f32 sqrt(f32 a) { return _mm512_sqrt_ps(a); }
static inline f32 fma(f32 a, f32 b, f32 c) { return _mm512_fmadd_ps(a, b, c); }
static inline float sum(f32 a) { return _mm512_reduce_add_ps(a); }

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

struct AbsMax {
    __m512i bits = _mm512_setzero_si512();
    void update(f32 v) {
        const __m512i magnitude = _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff));
        bits = _mm512_max_epi32(bits, magnitude);
    }
    uint32_t value() const { return static_cast<uint32_t>(_mm512_reduce_max_epi32(bits)); }
};

static inline void products_down(const double* t, double s, float* out, int n) {
    const __m512d scale = _mm512_set1_pd(s);
    for (int i = 0; i < n; i += 8) {
        const __m512d product = _mm512_mul_pd(_mm512_loadu_pd(t + i), scale);
        _mm256_storeu_ps(out + i, _mm512_cvt_roundpd_ps(product, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));
    }
}

static inline i32 step(i32 node, __mmask16 above) {
    const i32 twice = _mm512_add_epi32(node, node);
    return _mm512_mask_add_epi32(twice, above, twice, _mm512_set1_epi32(1));
}
struct Heap16 {
    f32 h;
    explicit Heap16(const float* heap) : h(_mm512_loadu_ps(heap)) {}
    i32 walk(f32 x) const {
        i32 node = _mm512_set1_epi32(1);
        for (int level = 0; level < 4; ++level) {
            node = step(node, _mm512_cmp_ps_mask(x, _mm512_permutexvar_ps(node, h), _CMP_GT_OQ));
        }
        return node;
    }
};
static inline i32 minus(i32 a, int32_t b) { return _mm512_sub_epi32(a, _mm512_set1_epi32(b)); }

struct Table16 {
    f32 t;
    explicit Table16(const float* table) : t(_mm512_loadu_ps(table)) {}
    f32 operator[](i32 index) const { return _mm512_permutexvar_ps(index, t); }
};
struct Map16 {
    i32 t;
    explicit Map16(const int32_t* table) : t(_mm512_loadu_si512(table)) {}
    i32 operator[](i32 index) const { return _mm512_permutexvar_epi32(index, t); }
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

struct Heap256 {
    Heap16 top;
    const float* h;
    explicit Heap256(const float* heap) : top(heap), h(heap) {}
    // A level's nodes are as many as their number's lowest bits can tell apart.
    i32 walk(f32 x) const {
        i32 node = top.walk(x);
        node = compare(x, _mm512_permutexvar_ps(node, load(h + 16)), node);
        node = compare(x, look_up_32(h + 32, node), node);
        node = compare(x, look_up_64(h + 64, node, has_bit(node, 5)), node);
        return compare(x, look_up_128(h + 128, node, has_bit(node, 5), has_bit(node, 6)), node);
    }
    static i32 compare(f32 x, f32 threshold, i32 node) {
        return step(node, _mm512_cmp_ps_mask(x, threshold, _CMP_GT_OQ));
    }
};
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
static inline void store_u8(uint8_t* p, i32 v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v));
}
static inline void store_u8_n(uint8_t* p, i32 v, int n) {
    _mm_mask_storeu_epi8(p, first(n), _mm512_cvtepi32_epi8(v));
}

// A pair of codes is one 64-bit lane: the first in its low half, the second in its high half.
static inline __m128i pack_pairs(i32 v) {
    return _mm512_cvtepi64_epi8(_mm512_or_si512(_mm512_slli_epi64(v, 4), _mm512_srli_epi64(v, 32)));
}
static inline void pack(uint8_t* p, i32 first_half, i32 second_half) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), pack_pairs(first_half));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p + 8), pack_pairs(second_half));
}
// The upper bits of an index are left as they come: look-ups use the low four.
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
static inline i32 load_u32(const uint8_t* p) { return _mm512_loadu_si512(p); }
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
static inline void prefetch_l2(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }
static inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

}  // namespace kq::avx512
