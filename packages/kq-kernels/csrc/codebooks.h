// Codebooks prepared for the kernels: values to decode with, thresholds to encode with.
#pragma once

#include <cstdint>

namespace kq {

// Thresholds are midpoints of neighboring values, in the order of a binary search tree: node i has the
// children 2i and 2i+1, node 0 is unused. A value descends to the right where it is greater, so a tie goes
// to the lower code, and the node reached below the leaves, less the number of codes, is the rank.
struct Codebook4 {
    float values[16];       // by code
    double thresholds[16];  // search tree over ranks
    int32_t code_of_rank[16];
    uint8_t zero;  // code of zero
};

struct Codebook8 {
    float values[256];
    double thresholds[256];
    uint8_t zero;
};

// The two 4-bit codebooks of docs/FORMAT.md.
enum class QuantType { nf4, fp4 };
const Codebook4& codebook_4bit(QuantType type);

// `values`: 256 finite numbers in ascending order (checked by the caller).
Codebook8 codebook_8bit(const float* values);

}  // namespace kq
