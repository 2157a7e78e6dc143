// How the factors of a product lie in memory when they are packed: in tiles of 16 rows of 64 bytes, ready to
// be loaded into a register.
//
// Tiles of two neighbouring groups of 16 outputs alternate: [32 outputs][tile of the reduced
// dimension][group]. So do those of x, in panels of 32 rows, of which the last one has a single tile where
// that is enough.
#pragma once

#include <cstdint>

#include "kernels/tiles/tiles.h"

namespace kq::amx {

constexpr int64_t kSide = 16;                  // outputs, or rows of x, of a tile
constexpr int64_t kUnit = 2 * kSide;           // outputs, or rows of x, whose tiles alternate
constexpr int64_t kTileWords = kSide * kSide;  // of 32 bits, such as sums

static inline int64_t round_up(int64_t value, int64_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

static inline int64_t row_tiles(int64_t m) { return (m + kSide - 1) / kSide; }

// Where panel `panel` of packed x begins, counted in tiles, and how many tiles of rows it has.
struct Panel {
    int64_t offset;
    int64_t tiles;
    Panel(int64_t m, int64_t depth, int64_t panel)
        : offset(panel * 2 * depth), tiles(row_tiles(m) - 2 * panel < 2 ? 1 : 2) {}
};

static inline int64_t panels(int64_t m) { return (m + kUnit - 1) / kUnit; }

}  // namespace kq::amx
