// Products of tiles: 32 outputs with one or two tiles of rows of x.
#pragma once

#include "kernels/linear_4bit/bf16_operands.inl.h"

namespace kq::amx {

// The first four registers hold sums, output tile by output tile.
constexpr int kWeights = 4;
constexpr int kInputs = 6;

// Weights are A (forward) or B (backward).
template <bool TRANSPOSED, int C, int WEIGHT, int INPUT>
static inline void multiply_tile() {
    if constexpr (TRANSPOSED) {
        tile::multiply<C, INPUT, WEIGHT>();
    } else {
        tile::multiply<C, WEIGHT, INPUT>();
    }
}

template <int XTILES>
static inline void zero_sums() {
    tile::zero<0>();
    tile::zero<1>();
    if constexpr (XTILES == 2) {
        tile::zero<2>();
        tile::zero<3>();
    }
}

template <int XTILES>
static inline void load_sums(const float* c) {
    tile::load<0>(c, tile::kRowBytes);
    tile::load<1>(c + kSums, tile::kRowBytes);
    if constexpr (XTILES == 2) {
        tile::load<2>(c + 2 * kSums, tile::kRowBytes);
        tile::load<3>(c + 3 * kSums, tile::kRowBytes);
    }
}

template <int XTILES>
static inline void store_sums(float* c) {
    tile::store<0>(c, tile::kRowBytes);
    tile::store<1>(c + kSums, tile::kRowBytes);
    if constexpr (XTILES == 2) {
        tile::store<2>(c + 2 * kSums, tile::kRowBytes);
        tile::store<3>(c + 3 * kSums, tile::kRowBytes);
    }
}

// c[output tile][x tile] = the sums over `depth` tiles, added to what c holds if `accumulate`.
template <bool TRANSPOSED, int XTILES>
static void multiply_unit(const uint16_t* w, const uint16_t* x, int64_t depth, bool accumulate, float* c) {
    if (accumulate) {
        load_sums<XTILES>(c);
    } else {
        zero_sums<XTILES>();
    }
    for (int64_t i = 0; i < depth; ++i) {
        tile::load<kInputs>(x, tile::kRowBytes);
        if constexpr (XTILES == 2) tile::load<kInputs + 1>(x + kTile, tile::kRowBytes);
        tile::load<kWeights>(w, tile::kRowBytes);
        multiply_tile<TRANSPOSED, 0, kWeights, kInputs>();
        if constexpr (XTILES == 2) multiply_tile<TRANSPOSED, 1, kWeights, kInputs + 1>();
        tile::load<kWeights + 1>(w + kTile, tile::kRowBytes);
        multiply_tile<TRANSPOSED, XTILES, kWeights + 1, kInputs>();
        if constexpr (XTILES == 2) multiply_tile<TRANSPOSED, 3, kWeights + 1, kInputs + 1>();
        w += 2 * kTile;
        x += XTILES * kTile;
    }
    store_sums<XTILES>(c);
}

}  // namespace kq::amx
