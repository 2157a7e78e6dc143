// Eight lanes with AVX2, FMA and F16C. The interface is explained in scalar.h.
#pragma once

#include <immintrin.h>

#include "types.h"

#define KQ_ISA avx2

namespace kq::avx2 {

constexpr int W = 8;
constexpr int FEW_GROUP = 2;
constexpr int TILE = 6;  // 12 accumulators, 2 vectors of weights and a broadcast in 16 registers

using f32 = __m256;
using i32 = __m256i;

static inline f32 set1(float v) { return _mm256_set1_ps(v); }
static inline f32 add(f32 a, f32 b) { return _mm256_add_ps(a, b); }
static inline f32 sub(f32 a, f32 b) { return _mm256_sub_ps(a, b); }
static inline f32 mul(f32 a, f32 b) { return _mm256_mul_ps(a, b); }
static inline f32 div(f32 a, f32 b) { return _mm256_div_ps(a, b); }
static inline f32 sqrt(f32 a) { return _mm256_sqrt_ps(a); }
static inline f32 fma(f32 a, f32 b, f32 c) { return _mm256_fmadd_ps(a, b, c); }
static inline float sum(f32 a) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline __m256i first(int n) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lanes);
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

struct AbsMax {
    __m256i bits = _mm256_setzero_si256();
    void update(f32 v) {
        const __m256i magnitude = _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7fffffff));
        bits = _mm256_max_epi32(bits, magnitude);
    }
    uint32_t value() const {
        __m128i m = _mm_max_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
        m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
        m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
        return static_cast<uint32_t>(_mm_cvtsi128_si32(m));
    }
};

static inline void products_down(const double* t, double s, float* out, int n) {
    const __m256d scale = _mm256_set1_pd(s);
    for (int i = 0; i < n; i += 4) {
        const __m256d product = _mm256_mul_pd(_mm256_loadu_pd(t + i), scale);
        const __m128 nearest = _mm256_cvtpd_ps(product);
        // Where rounding went up, take the float below: one less in magnitude if positive, one more if
        // negative (a negative product that was rounded to -0 becomes the smallest negative number).
        const __m256d up = _mm256_cmp_pd(_mm256_cvtps_pd(nearest), product, _CMP_GT_OQ);
        const __m128i moved = _mm256_cvtpd_epi32(_mm256_and_pd(up, _mm256_set1_pd(1.0)));
        const __m128i bits = _mm_castps_si128(nearest);
        const __m128i direction = _mm_or_si128(_mm_srai_epi32(bits, 31), _mm_set1_epi32(1));
        const __m128i below = _mm_sub_epi32(bits, _mm_sign_epi32(moved, direction));
        _mm_storeu_ps(out + i, _mm_castsi128_ps(below));
    }
}

static inline i32 step(i32 node, f32 above) {
    // A true comparison is -1 in every lane.
    return _mm256_sub_epi32(_mm256_add_epi32(node, node), _mm256_castps_si256(above));
}
struct Heap16 {
    f32 top, leaves;  // nodes 1..7 (0 is unused) and 8..15; a permutation uses three bits of a node
    explicit Heap16(const float* heap) : top(load(heap)), leaves(load(heap + 8)) {}
    i32 walk(f32 x) const {
        i32 node = _mm256_set1_epi32(1);
        for (int level = 0; level < 3; ++level) node = compare(x, top, node);
        return compare(x, leaves, node);
    }
    static i32 compare(f32 x, f32 heap, i32 node) {
        return step(node, _mm256_cmp_ps(x, _mm256_permutevar8x32_ps(heap, node), _CMP_GT_OQ));
    }
};
static inline i32 minus(i32 a, int32_t b) { return _mm256_sub_epi32(a, _mm256_set1_epi32(b)); }

struct Table16 {
    f32 low, high;
    explicit Table16(const float* table) : low(load(table)), high(load(table + 8)) {}
    f32 operator[](i32 index) const {
        const f32 a = _mm256_permutevar8x32_ps(low, index);
        const f32 b = _mm256_permutevar8x32_ps(high, index);
        return _mm256_blendv_ps(a, b, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
    }
};
struct Map16 {
    Table16 t;
    explicit Map16(const int32_t* table) : t(reinterpret_cast<const float*>(table)) {}
    i32 operator[](i32 index) const { return _mm256_castps_si256(t[index]); }
};

// Eight loads instead of a gather: not slower on processors with fast gathers, and several times faster
// where the mitigation of a vulnerability (Downfall) has slowed them down.
static inline f32 look_up(const float* table, i32 index) {
    alignas(32) int32_t i[W];
    _mm256_store_si256(reinterpret_cast<__m256i*>(i), index);
    return _mm256_setr_ps(table[i[0]], table[i[1]], table[i[2]], table[i[3]], table[i[4]], table[i[5]],
                          table[i[6]], table[i[7]]);
}

struct Heap256 {
    Heap16 top;
    const float* h;
    explicit Heap256(const float* heap) : top(heap), h(heap) {}
    i32 walk(f32 x) const {
        i32 node = top.walk(x);
        node = compare(x, Table16(h + 16)[node], node);
        const f32 bit4 = _mm256_castsi256_ps(_mm256_slli_epi32(node, 27));
        node = compare(x, _mm256_blendv_ps(Table16(h + 32)[node], Table16(h + 48)[node], bit4), node);
        node = compare(x, look_up(h, node), node);
        return compare(x, look_up(h, node), node);
    }
    static i32 compare(f32 x, f32 threshold, i32 node) {
        return step(node, _mm256_cmp_ps(x, threshold, _CMP_GT_OQ));
    }
};
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
static inline void store_u8(uint8_t* p, i32 v) {
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
}
static inline void store_u8_n(uint8_t* p, i32 v, int n) {
    uint8_t full[W];
    store_u8(full, v);
    std::memcpy(p, full, static_cast<size_t>(n));
}

// A pair of codes is one 64-bit lane: the first in its low half, the second in its high half.
static inline void pack_pairs(uint8_t* p, i32 v) {
    const __m256i pairs = _mm256_or_si256(_mm256_slli_epi64(v, 4), _mm256_srli_epi64(v, 32));
    const __m256i bytes = _mm256_shuffle_epi8(
        pairs, _mm256_setr_epi8(0, 8, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,  //
                                -1, -1, 0, 8, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
    const __m128i four = _mm_or_si128(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
    const int32_t word = _mm_cvtsi128_si32(four);
    std::memcpy(p, &word, 4);
}
static inline void pack(uint8_t* p, i32 first_half, i32 second_half) {
    pack_pairs(p, first_half);
    pack_pairs(p + 4, second_half);
}
// The upper bits of an index are left as they come: look-ups use the low four.
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
static inline i32 load_u32(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
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
static inline void prefetch_l2(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }
static inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

}  // namespace kq::avx2
