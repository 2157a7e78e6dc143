// How the codes of x lie in memory when they are multiplied: in words of the width that `dot` takes.
//
// The reduced dimension is counted in steps; a word of four codes has PARTS of them. For few rows, lanes are
// neighbouring words of one row: [tile][vector of words][part][row]. For many, a word is spread over all
// lanes: [slice][tile][step][row].
#pragma once

#include <utility>

#include "kernels/int8/args.h"
#include "kernels/many_rows/tiling.inl.h"
#include "kernels/words.inl.h"

namespace kq::KQ_ISA {

constexpr int64_t kChunk = 4 * W;  // codes in a vector of words

static inline int64_t chunks(int64_t k) { return (k + kChunk - 1) / kChunk; }
static inline int64_t steps_of(int64_t k) { return (k + 3) / 4 * PARTS; }

// Calls call(std::integral_constant<int, part>) for every part.
template <class Call>
[[gnu::always_inline]] static inline void for_parts(Call call) {
    const auto each = [&]<int... P>(std::integer_sequence<int, P...>) {
        (call(std::integral_constant<int, P>{}), ...);
    };
    each(std::make_integer_sequence<int, PARTS>{});
}

// What the sums of a row begin with, so that they come out right although weights are shifted.
static inline int32_t start_of(const int8_t* codes, int64_t k) {
    if (WEIGHT_SHIFT == 0) return 0;
    int32_t sum = 0;
    for (int64_t i = 0; i < k; ++i) sum += codes[i];
    return static_cast<int32_t>(-static_cast<uint32_t>(WEIGHT_SHIFT) * static_cast<uint32_t>(sum));
}

}  // namespace kq::KQ_ISA
