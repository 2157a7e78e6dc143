// Codebooks prepared for the kernels: values to decode with, thresholds to encode with.
#pragma once

#include <cstdint>
#include <memory>

#include "dynamic_map.h"

namespace kq {

// Thresholds are midpoints of neighboring values; a value gets the rank that is the number of thresholds
// below it, so a tie goes to the lower code.
struct Codebook4 {
    float values[16];                   // by code
    alignas(64) double thresholds[16];  // ascending, then infinity
    double tree[16];  // the same as a search tree: node i has the children 2i and 2i+1; node 0 is unused
    int32_t code_of_rank[16];
    uint8_t zero;  // code of zero

    // Codes ascend with their values, and each of 31 equal bins of [-1, 1] holds at most one threshold; then
    // rank_of_bin is the number of thresholds below the bin, whose number is kBinsPerUnit * value +
    // kMiddleBin, rounded. Bin 0 is unused.
    bool regular;
    alignas(64) int32_t rank_of_bin[32];
};
constexpr float kBinsPerUnit = 15.49f;  // so that 1 is safely within bin 31
constexpr float kMiddleBin = 16.0f;

// A level of this search tree begins at 1, 2, 4, ... 128. In it, a threshold's place is the path that leads
// to it: bit i says whether the value was greater at level i. The rank has these bits in reverse order.
struct Codebook8 {
    float values[256];
    double tree[256];
    uint8_t zero;
    DynamicMap dynamic;
};

static inline uint8_t reversed_bits(int value, int count) {
    int reversed = 0;
    for (int i = 0; i < count; ++i) reversed |= (value >> i & 1) << (count - 1 - i);
    return static_cast<uint8_t>(reversed);
}

// The two 4-bit codebooks of docs/FORMAT.md.
enum class QuantType { nf4, fp4 };
const Codebook4& codebook_4bit(QuantType type);

// `values`: 256 finite numbers in ascending order (checked by the caller). Recent codebooks are kept, as
// those of an optimizer come back at every step.
std::shared_ptr<const Codebook8> codebook_8bit(const float* values);

// The nearest code of one value, decided exactly. For a scale that has ratios.
static inline uint8_t nearest_code(const Codebook8& book, float x, float scale) {
    int path = 0;
    for (int level = 0; level < 8; ++level) {
        path |= (x > book.tree[(1 << level) + path] * static_cast<double>(scale) ? 1 : 0) << level;
    }
    return reversed_bits(path, 8);
}

}  // namespace kq
