// The dynamic maps with one lane: the meaning of the interface that avx2_dynamic.h and avx512_dynamic.h
// implement. For codebooks with a regular dynamic map, with or without negative values.
//
//   DynamicDecoder   the values of W codes, to the bit
//   DynamicEncoder   the nearest codes of kParts vectors at a time, decided exactly; for scales that
//   has_ranks
//                    accepts; without negatives, values are not negative. rank() prepares one vector,
//                    write() their codes, so that other work can be done in between, for which kSpare
//                    says whether there are registers to spare
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
struct DynamicEncoder {
    static constexpr int kParts = 4;
    static constexpr bool kSpare = false;
    Search256 search;
    DynamicEncoder(const Codebook8& book, float absmax) : search(book, absmax) {}
    struct Ranks {
        uint8_t code[kParts];
    };
    void rank(const float* x, int part, Ranks& r) const { search(x, r.code + part); }
    void write(const Ranks& r, const float*, uint8_t* codes) const { std::memcpy(codes, r.code, kParts); }
};

}  // namespace kq::scalar
