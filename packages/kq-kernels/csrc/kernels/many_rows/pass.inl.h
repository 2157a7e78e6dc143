// Products of many rows of x with slivers of decoded weights, whatever the weights are decoded from.
//
// x is stored once per call in tiles of nearly equal height, at most TILE or PAIR_TILE rows, with rows
// running fastest. The slivers of a pass, some neighbouring outputs by a slice of the reduced dimension, are
// decoded into the level-2 cache and multiplied with one tile after the other. Sums that are not complete
// wait in memory. An output is summed up in the order of the reduced dimension, whatever its row, tile or
// thread.
#pragma once

#include "kernels/dtypes.inl.h"
#include "kernels/many_rows/tile.inl.h"
#include "kernels/many_rows/tiling.inl.h"

namespace kq::KQ_ISA {

// Few rows of x stay in the level-2 cache, and what takes the time is decoding: one sliver at a time, into
// the level-1 cache, so that forward the codes are read in order. Many rows are read from memory once for all
// outputs of a pass, and long slices keep sums in registers.
constexpr int64_t kCachedRows = 32;
constexpr int64_t kShortSlice = 128, kLongSlice = 576;
constexpr int64_t kPassOutputs = 128;  // backward, as many as lie in a cache line of codes
static_assert(kPassOutputs % kOutputs == 0 && kOutputUnit % kOutputs == 0);
static_assert(kShortSlice % kPackUnit == 0 && kLongSlice % kPackUnit == 0);

static inline int64_t pass_outputs(int64_t m, bool transposed) {
    return m <= kCachedRows && !transposed ? kOutputs : kPassOutputs;
}

// Whether tiles are multiplied with two slivers side by side.
static inline bool in_pairs(int64_t m) { return PAIR_TILE > 0 && m > kCachedRows; }
static inline Tiling tiling_of(int64_t m) { return {m, in_pairs(m) ? PAIR_TILE : TILE}; }

// The cut of the reduced dimension into slices of `length`, of which the last may be shorter.
struct Slicing {
    int64_t depth, length;
    Slicing(int64_t depth_, int64_t m) : depth(depth_) {
        const int64_t most = m <= kCachedRows ? kShortSlice : kLongSlice;
        const int64_t count = depth <= most ? 1 : (depth + most - 1) / most;
        length = (depth + count * kPackUnit - 1) / (count * kPackUnit) * kPackUnit;
    }
    int64_t length_at(int64_t begin) const { return depth - begin < length ? depth - begin : length; }
};

// A product [m, outputs] over `depth`.
struct ManyRows {
    const float* x;  // packed
    int64_t m;
    int64_t depth;
    int64_t outputs;
    const void* bias;  // [outputs], or null
    void* out;
};

// One pass: outputs [i0, i0 + outer) of all rows. decode(i, count, r, reduce, to) makes a sliver: w(i, r) for
// `count` outputs from i on and the `reduce` values of r from r on, [reduce, kOutputs].
template <class T, class Decode>
static inline void multiply_pass(const ManyRows& a, int64_t i0, int64_t outer, const Decode& decode,
                                 float* scratch) {
    const T* bias = static_cast<const T*>(a.bias);
    const Tiling tiling = tiling_of(a.m);
    const Slicing slicing(a.depth, a.m);
    float* slivers = scratch;
    float* sums = scratch + kPassOutputs * kLongSlice;
    int64_t r0 = 0;
    do {  // once for an empty sum
        const int64_t reduce = slicing.length_at(r0);
        const bool last = r0 + reduce == slicing.depth;
        for (int64_t i = 0; i < outer; i += kOutputs) {
            const int64_t count = outer - i < kOutputs ? outer - i : kOutputs;
            decode(i0 + i, count, r0, reduce, slivers + i * slicing.length);
        }
        for (int64_t tile = 0; tile < tiling.count; ++tile) {
            const int64_t first = tiling.begin(tile);
            const int64_t height = tiling.height_of(tile);
            for (int64_t i = 0; i < outer;) {
                const bool pair = in_pairs(a.m) && outer - i > kOutputs;
                const TileResults<T> results{static_cast<T*>(a.out) + first * a.outputs + i0 + i, a.outputs,
                                             bias == nullptr ? nullptr : bias + i0 + i, outer - i};
                multiply_tile_of<T>(height, pair)(
                    a.x + r0 * a.m + first * reduce, slivers + i * slicing.length, kOutputs * slicing.length,
                    reduce, r0 == 0, sums + first * kPassOutputs + i * height, last ? &results : nullptr);
                i += pair ? 2 * kOutputs : kOutputs;
            }
        }
        r0 += slicing.length;
    } while (r0 < slicing.depth);
}

}  // namespace kq::KQ_ISA
