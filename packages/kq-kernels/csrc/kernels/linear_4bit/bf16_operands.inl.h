// How the two factors of a product in bfloat16 lie in memory: in tiles of 16 rows of 64 bytes, ready to be
// loaded into a register.
//
// One factor holds numbers of 32 neighbouring values of the reduced dimension in a row, the other one pairs
// of them. Which of the two the weights are depends on how their codes lie. Forward, codes lie along the
// reduced dimension: a row of a tile belongs to an output (A), and x is stored in pairs (B). Backward, codes
// lie along the outputs: weights are stored in pairs of rows (B), and the gradient as it is (A).
//
// Either way, tiles of two neighbouring groups of 16 outputs alternate: [32 outputs][tile of depth][group].
// So do those of x, in panels of 32 rows, of which the last one has a single tile where that is enough.
#pragma once

#include "kernels/kernels.h"
#include "kernels/tiles/tiles.h"

namespace kq::amx {

constexpr int64_t kSide = 16;                  // outputs, or rows of x, of a tile
constexpr int64_t kTileDepth = 32;             // values of the reduced dimension
constexpr int64_t kTile = kSide * kTileDepth;  // bfloat16 numbers
constexpr int64_t kUnit = 2 * kSide;           // outputs, or rows of x, whose tiles alternate
constexpr int64_t kSums = kSide * kSide;       // float32 numbers of a tile of results
static_assert(kOutputUnit % kUnit == 0 && kPackUnit % kTileDepth == 0);

// Forward, weights are decoded 128 codes at a time, into rows of four tiles: code 4 i + j becomes number i of
// tile j. The order of a sum is ours to choose, and this one needs no rearrangement; x follows it.
constexpr int64_t kChunk = 128;
constexpr int64_t kChunkTiles = kChunk / kTileDepth;

static inline int64_t round_up(int64_t value, int64_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

// Tiles that the reduced dimension takes; what they hold beyond it is zero in both factors, because zero
// times a number that is none is not zero.
static inline int64_t depth_tiles(int64_t depth, bool transposed) {
    return round_up(depth, transposed ? kTileDepth : kChunk) / kTileDepth;
}

static inline int64_t row_tiles(int64_t m) { return (m + kSide - 1) / kSide; }

// Where panel `panel` of packed x begins, and how many tiles of rows it has.
struct Panel {
    int64_t offset;
    int64_t tiles;
    Panel(int64_t m, int64_t depth, int64_t panel)
        : offset(panel * 2 * depth * kTile), tiles(row_tiles(m) - 2 * panel < 2 ? 1 : 2) {}
};

static inline int64_t panels(int64_t m) { return (m + kUnit - 1) / kUnit; }

}  // namespace kq::amx
