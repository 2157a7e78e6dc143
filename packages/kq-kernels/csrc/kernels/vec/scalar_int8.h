// int8 codes with one lane: the meaning of the interface that avx2_int8.h, avx512_int8.h and vnni.h
// implement.
//
// Rows of codes are read as vectors of 32-bit words, four codes each. Before they can be multiplied they are
// taken apart: part<P>, P < PARTS, gives the lanes their share of the word in a width that `dot` takes. Which
// codes of a word a part holds, and in what order, is the same for both factors.
//
//   PARTS          parts of a word
//   WEIGHT_SHIFT   what weight_part adds to a weight
//   INT8_FEW_ROWS  rows of x whose sums, with FEW_GROUP rows of W, are kept in registers
//   dot            adds to each lane the sum of its products; sums wrap around at 32 bits
#pragma once

#include "kernels/vec/scalar.h"

namespace kq::scalar {

constexpr int PARTS = 4;
constexpr int32_t WEIGHT_SHIFT = 0;
constexpr int INT8_FEW_ROWS = 4;

// W codes as floats, W floats from -127 to 127 to the nearest codes (ties to even), and int32 to floats. What
// other floats become is some code.
static inline f32 load_int8(const int8_t* p) { return *p; }
static inline void store_int8(int8_t* p, f32 v) {
    constexpr float kWhole = 12582912.0f;  // 1.5 * 2^23: floats of this size are whole numbers
    const float most = v < 127.0f ? v : 127.0f;
    *p = static_cast<int8_t>((most > -127.0f ? most : -127.0f) + kWhole - kWhole);
}
static inline f32 load_int32(const int32_t* p) { return static_cast<float>(*p); }

static inline i32 spread(int32_t word) { return word; }
static inline void store_words(int32_t* p, i32 v) { *p = v; }
static inline i32 load_words(const int32_t* p) { return *p; }

template <int P>
static inline i32 code_part(i32 word) {
    return static_cast<int8_t>(static_cast<uint32_t>(word) >> (8 * P));
}
template <int P>
static inline i32 weight_part(i32 word) {
    return code_part<P>(word);
}
static inline i32 dot(i32 sum, i32 weights, i32 codes) {
    return static_cast<i32>(static_cast<uint32_t>(sum) + static_cast<uint32_t>(weights * codes));
}
// FEW_GROUP numbers at p: the sums over the lanes of each vector.
static inline void store_sums(int32_t* p, const i32 (&v)[FEW_GROUP]) { *p = v[0]; }

}  // namespace kq::scalar
