// Numbers of the two factors of a product in bfloat16 in their tiles.
//
// One factor holds numbers of 32 neighbouring values of the reduced dimension in a row, the other one pairs
// of them. Which of the two the weights are depends on how their codes lie. Forward, codes lie along the
// reduced dimension: a row of a tile belongs to an output (A), and x is stored in pairs (B). Backward, codes
// lie along the outputs: weights are stored in pairs of rows (B), and the gradient as it is (A).
#pragma once

#include "kernels/kernels.h"
#include "kernels/tiles/panels.inl.h"

namespace kq::amx {

constexpr int64_t kTileDepth = 32;             // values of the reduced dimension
constexpr int64_t kTile = kSide * kTileDepth;  // bfloat16 numbers
static_assert(kOutputUnit % kUnit == 0 && kPackUnit % kTileDepth == 0);

// Forward, weights are decoded 128 codes at a time, into rows of four tiles: code 4 i + j becomes number i of
// tile j. The order of a sum is ours to choose, and this one needs no rearrangement; x follows it.
constexpr int64_t kChunk = 128;
constexpr int64_t kChunkTiles = kChunk / kTileDepth;

// Tiles that the reduced dimension takes; what they hold beyond it is zero in both factors, because zero
// times a number that is none is not zero.
static inline int64_t depth_tiles(int64_t depth, bool transposed) {
    return round_up(depth, transposed ? kTileDepth : kChunk) / kTileDepth;
}

}  // namespace kq::amx
