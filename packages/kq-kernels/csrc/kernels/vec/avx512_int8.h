// int8 codes with AVX-512. The interface is explained in scalar_int8.h, the products in avx2_int8.h.
#pragma once

#include "kernels/vec/avx512.h"

namespace kq::avx512 {

constexpr int PARTS = 2;
constexpr int32_t WEIGHT_SHIFT = 0;
constexpr int INT8_FEW_ROWS = 4;

static inline f32 load_int8(const int8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
static inline void store_int8(int8_t* p, f32 v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
}
static inline i32 spread(int32_t word) { return _mm512_set1_epi32(word); }
static inline void store_words(int32_t* p, i32 v) { _mm512_storeu_si512(p, v); }
static inline i32 load_words(const int32_t* p) { return _mm512_loadu_si512(p); }
static inline f32 load_int32(const int32_t* p) { return _mm512_cvtepi32_ps(load_words(p)); }

template <int P>
static inline i32 code_part(i32 word) {
    return _mm512_srai_epi16(P == 0 ? _mm512_slli_epi16(word, 8) : word, 8);
}
template <int P>
static inline i32 weight_part(i32 word) {
    return code_part<P>(word);
}
static inline i32 dot(i32 sum, i32 weights, i32 codes) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(weights, codes));
}
static inline void store_sums(int32_t* p, const i32 (&v)[FEW_GROUP]) {
    const auto halves = [](i32 a, i32 b) {
        return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x44), _mm512_shuffle_i32x4(a, b, 0xee));
    };
    const i32 two = halves(v[0], v[1]), other_two = halves(v[2], v[3]);
    const i32 quarters = _mm512_add_epi32(_mm512_shuffle_i32x4(two, other_two, 0x88),
                                          _mm512_shuffle_i32x4(two, other_two, 0xdd));
    const i32 pairs = _mm512_add_epi32(quarters, _mm512_shuffle_epi32(quarters, _MM_PERM_BADC));
    const i32 all = _mm512_add_epi32(pairs, _mm512_shuffle_epi32(pairs, _MM_PERM_CDAB));
    const i32 order = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm512_castsi512_si128(_mm512_permutexvar_epi32(order, all)));
}

}  // namespace kq::avx512
