// How the rows of x are cut into tiles of nearly equal height.
#pragma once

#include <cstdint>

namespace kq::KQ_ISA {

// At most `most` rows each: the first `taller` tiles have `height` + 1 rows, the others `height`.
struct Tiling {
    int64_t count, height, taller;
    Tiling(int64_t m, int64_t most)
        : count((m + most - 1) / most), height(count == 0 ? 0 : m / count), taller(m - count * height) {}
    int64_t begin(int64_t tile) const { return tile * height + (tile < taller ? tile : taller); }
    int64_t height_of(int64_t tile) const { return height + (tile < taller ? 1 : 0); }
    // The tile that holds row `row`.
    int64_t tile_of(int64_t row) const {
        const int64_t low = taller * (height + 1);
        return row < low ? row / (height + 1) : taller + (row - low) / height;
    }
};

}  // namespace kq::KQ_ISA
