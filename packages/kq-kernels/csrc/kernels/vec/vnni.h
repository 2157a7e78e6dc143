// Products of int8 codes with AVX-512 VNNI: four bytes a lane in one instruction, unsigned ones by signed
// ones. So 128 is added to the weights, which only flips their sign bits. All else is as with AVX-512. The
// interface is explained in scalar_int8.h.
#pragma once

#include "kernels/vec/avx512_int8.h"

#undef KQ_ISA
#define KQ_ISA vnni

namespace kq::vnni {

using namespace avx512;

constexpr int PARTS = 1;
constexpr int32_t WEIGHT_SHIFT = 128;
constexpr int INT8_FEW_ROWS = 6;

template <int P>
static inline i32 code_part(i32 word) {
    return word;
}
template <int P>
static inline i32 weight_part(i32 word) {
    return _mm512_xor_si512(word, _mm512_set1_epi8(-128));
}
static inline i32 dot(i32 sum, i32 weights, i32 codes) { return _mm512_dpbusd_epi32(sum, weights, codes); }

}  // namespace kq::vnni
