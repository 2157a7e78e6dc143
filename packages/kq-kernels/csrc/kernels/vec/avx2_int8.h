// int8 codes with AVX2. The interface is explained in scalar_int8.h.
//
// Codes are multiplied as 16-bit numbers: the instruction for pairs of bytes saturates their sums.
#pragma once

#include "kernels/vec/avx2.h"

namespace kq::avx2 {

constexpr int PARTS = 2;
constexpr int32_t WEIGHT_SHIFT = 0;
constexpr int INT8_FEW_ROWS = 4;

static inline f32 load_int8(const int8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
static inline void store_int8(int8_t* p, f32 v) {
    const __m256i whole = _mm256_cvtps_epi32(v);
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
}
static inline i32 spread(int32_t word) { return _mm256_set1_epi32(word); }
static inline void store_words(int32_t* p, i32 v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
static inline i32 load_words(const int32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
static inline f32 load_int32(const int32_t* p) { return _mm256_cvtepi32_ps(load_words(p)); }

// Codes 0 and 2 of a word, then 1 and 3: neighbours would take shuffles.
template <int P>
static inline i32 code_part(i32 word) {
    return _mm256_srai_epi16(P == 0 ? _mm256_slli_epi16(word, 8) : word, 8);
}
template <int P>
static inline i32 weight_part(i32 word) {
    return code_part<P>(word);
}
static inline i32 dot(i32 sum, i32 weights, i32 codes) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(weights, codes));
}
static inline void store_sums(int32_t* p, const i32 (&v)[FEW_GROUP]) {
    const __m256i pairs = _mm256_hadd_epi32(v[0], v[1]);
    const __m256i quarters = _mm256_hadd_epi32(pairs, pairs);
    const __m128i sums =
        _mm_add_epi32(_mm256_castsi256_si128(quarters), _mm256_extracti128_si256(quarters, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), sums);
}

}  // namespace kq::avx2
