// Products of a tile of x, up to TILE rows, with a sliver of decoded weights.
#pragma once

#include <array>
#include <utility>

#include "kernels/linear_4bit/sliver.inl.h"

namespace kq::KQ_ISA {

// c[i, 0..2W) += sum over r of x[r, i] * w[r, 0..2W), in the order of r, for H values of i.
template <int H>
static void multiply_tile(const float* x, const float* w, int64_t reduce, bool accumulate, float* c) {
    f32 acc[H][2];
#pragma GCC unroll 16
    for (int i = 0; i < H; ++i) {
        acc[i][0] = accumulate ? load(c + i * kOutputs) : set1(0.0f);
        acc[i][1] = accumulate ? load(c + i * kOutputs + W) : set1(0.0f);
    }
    for (int64_t r = 0; r < reduce; ++r) {
        const f32 w0 = load(w + r * kOutputs);
        const f32 w1 = load(w + r * kOutputs + W);
        prefetch(x + (r + reduce) * H);
#pragma GCC unroll 16
        for (int i = 0; i < H; ++i) {
            const f32 factor = set1(x[r * H + i]);
            acc[i][0] = fma(factor, w0, acc[i][0]);
            acc[i][1] = fma(factor, w1, acc[i][1]);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < H; ++i) {
        store(c + i * kOutputs, acc[i][0]);
        store(c + i * kOutputs + W, acc[i][1]);
    }
}

using MultiplyTile = void (*)(const float*, const float*, int64_t, bool, float*);

template <int... I>
static constexpr std::array<MultiplyTile, TILE> tile_products(std::integer_sequence<int, I...>) {
    return {multiply_tile<I + 1>...};
}

// By height - 1.
static constexpr auto kMultiplyTile = tile_products(std::make_integer_sequence<int, TILE>{});

}  // namespace kq::KQ_ISA
