// The dynamic maps with one lane: the meaning of the interface that avx2_dynamic.h and avx512_dynamic.h
// implement. For codebooks with a regular dynamic map, with or without negative values.
//
//   DynamicDecoder   the values of W codes, to the bit
//   DynamicEncoder   the nearest codes of kCodes values at a time, decided exactly; for scales that has_ranks
//                    accepts; without negatives, values are not negative
#pragma once

#include "kernels/vec/scalar_codes.h"

namespace kq::scalar {

template <bool kNegatives>
struct DynamicDecoder {
    const float* values;
    explicit DynamicDecoder(const Codebook8& book) : values(book.values) {}
    f32 operator()(const uint8_t* codes) const { return values[*codes]; }
};

template <bool kNegatives>
struct DynamicEncoder : Search256 {
    using Search256::Search256;
};

}  // namespace kq::scalar
