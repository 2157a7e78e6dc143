// Products of tiles: 32 outputs with one or two tiles of rows of x, whose sums stay in registers.
#pragma once

#include "kernels/tiles/tiles.h"

namespace kq::amx {

// The first four registers hold sums, output tile by output tile.
constexpr int kWeights = 4;
constexpr int kInputs = 6;
constexpr int64_t kTileBytes = tile::kRows * tile::kRowBytes;

// The two tiles of weights of the first step, and how far apart, in bytes, the rows of a tile, the two tiles
// and the steps are.
struct UnitWeights {
    const char* tiles;
    int64_t row, second, step;
};

static inline UnitWeights packed_weights(const void* tiles) {
    return {static_cast<const char*>(tiles), tile::kRowBytes, kTileBytes, 2 * kTileBytes};
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
static inline void load_sums(const char* c) {
    tile::load<0>(c, tile::kRowBytes);
    tile::load<1>(c + kTileBytes, tile::kRowBytes);
    if constexpr (XTILES == 2) {
        tile::load<2>(c + 2 * kTileBytes, tile::kRowBytes);
        tile::load<3>(c + 3 * kTileBytes, tile::kRowBytes);
    }
}

template <int XTILES>
static inline void store_sums(char* c) {
    tile::store<0>(c, tile::kRowBytes);
    tile::store<1>(c + kTileBytes, tile::kRowBytes);
    if constexpr (XTILES == 2) {
        tile::store<2>(c + 2 * kTileBytes, tile::kRowBytes);
        tile::store<3>(c + 3 * kTileBytes, tile::kRowBytes);
    }
}

// sums[output tile][x tile] = the products of all steps, added to what `sums` holds if `accumulate`.
// Product::multiply<C, WEIGHT, INPUT>() multiplies registers.
template <class Product, int XTILES>
static void multiply_unit(UnitWeights w, const void* packed_x, int64_t steps, bool accumulate, void* sums) {
    const char* x = static_cast<const char*>(packed_x);
    char* c = static_cast<char*>(sums);
    if (accumulate) {
        load_sums<XTILES>(c);
    } else {
        zero_sums<XTILES>();
    }
    for (int64_t i = 0; i < steps; ++i) {
        tile::load<kInputs>(x, tile::kRowBytes);
        if constexpr (XTILES == 2) tile::load<kInputs + 1>(x + kTileBytes, tile::kRowBytes);
        tile::load<kWeights>(w.tiles, w.row);
        Product::template multiply<0, kWeights, kInputs>();
        if constexpr (XTILES == 2) Product::template multiply<1, kWeights, kInputs + 1>();
        tile::load<kWeights + 1>(w.tiles + w.second, w.row);
        Product::template multiply<XTILES, kWeights + 1, kInputs>();
        if constexpr (XTILES == 2) Product::template multiply<3, kWeights + 1, kInputs + 1>();
        w.tiles += w.step;
        x += XTILES * kTileBytes;
    }
    store_sums<XTILES>(c);
}

// For as many tiles of rows of x as a panel has.
template <class Product>
static void multiply_unit(const UnitWeights& w, const void* x, int64_t xtiles, int64_t steps, bool accumulate,
                          void* sums) {
    const auto multiply = xtiles == 2 ? multiply_unit<Product, 2> : multiply_unit<Product, 1>;
    multiply(w, x, steps, accumulate, sums);
}

}  // namespace kq::amx
