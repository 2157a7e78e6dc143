// Products of many rows of x with slivers of decoded weights.
//
// x is stored once per call in tiles of nearly equal height, at most TILE rows, with rows running fastest.
// The slivers of a pass, some neighbouring outputs by a slice of the reduced dimension, are decoded into the
// level-2 cache and multiplied with one tile after the other. Sums that are not complete wait in memory. An
// output is summed up in the order of the reduced dimension, whatever its row, tile or thread.
#pragma once

#include "kernels/dtypes.inl.h"
#include "kernels/linear_4bit/tile.inl.h"

namespace kq::KQ_ISA {

// Few rows of x stay in the level-2 cache, and what takes the time is decoding: one sliver at a time, into
// the level-1 cache, so that forward the codes are read in order. Many rows are read from memory once for all
// outputs of a pass, and long slices keep sums in registers.
constexpr int64_t kCachedRows = 48;
constexpr int64_t kShortSlice = 128, kLongSlice = 576;
constexpr int64_t kPassOutputs = 128;  // backward, as many as lie in a cache line of codes
static_assert(kPassOutputs % kOutputs == 0 && kOutputUnit % kOutputs == 0);
static_assert(kShortSlice % kPackUnit == 0 && kLongSlice % kPackUnit == 0);

static inline int64_t pass_outputs(int64_t m, bool transposed) {
    return m <= kCachedRows && !transposed ? kOutputs : kPassOutputs;
}

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

// The cut of m rows into tiles: the first `taller` ones have `height` + 1 rows, the others `height`.
struct Tiling {
    int64_t count, height, taller;
    explicit Tiling(int64_t m)
        : count((m + TILE - 1) / TILE), height(count == 0 ? 0 : m / count), taller(m - count * height) {}
    int64_t begin(int64_t tile) const { return tile * height + (tile < taller ? tile : taller); }
    int64_t height_of(int64_t tile) const { return height + (tile < taller ? 1 : 0); }
};

int64_t many_packed(int64_t m, int64_t depth) { return m * depth; }
int64_t many_scratch(int64_t m) { return kPassOutputs * (kLongSlice + m); }

// Up to W columns of up to W rows of x, to out[column * height + row].
template <class T>
static inline void pack_square(const T* x, int64_t row_stride, int rows, int columns, int64_t height,
                               float* out) {
    i32 square[W];
    const bool whole = columns == W;
#pragma GCC unroll 16
    for (int j = 0; j < W; ++j) {
        const T* row = x + (j < rows ? j : rows - 1) * row_stride;  // what is too much is not stored
        square[j] = as_bits(whole ? load(row) : load_n(row, columns));
        prefetch(row + kPackUnit);
    }
    transpose(square);
    if (whole && rows < W) {
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) store_n(out + i * height, as_floats(square[i]), rows);
        return;
    }
    for (int i = 0; i < columns; ++i) {
        if (rows == W) {
            store(out + i * height, as_floats(square[i]));
        } else {
            store_n(out + i * height, as_floats(square[i]), rows);
        }
    }
}

void many_pack(const PackArgs& a, int64_t begin, int64_t end) {
    static_assert(kPackUnit % W == 0);
    with_float_type(a.dtype, [&](auto t) {
        using T = decltype(t);
        const Tiling tiling(a.m);
        const Slicing slicing(a.k, a.m);
        for (int64_t tile = 0; tile < tiling.count; ++tile) {
            const int64_t first = tiling.begin(tile);
            const int64_t height = tiling.height_of(tile);
            for (int64_t k = begin; k < end; k += W) {
                const int64_t r0 = k / slicing.length * slicing.length;
                const int64_t reduce = slicing.length_at(r0);
                const int columns = static_cast<int>(end - k < W ? end - k : W);
                float* out = a.out + r0 * a.m + first * reduce + (k - r0) * height;
                for (int64_t j = 0; j < height; j += W) {
                    const T* x = static_cast<const T*>(a.x) + (first + j) * a.row_stride + k;
                    const int rows = static_cast<int>(height - j < W ? height - j : W);
                    pack_square(x, a.row_stride, rows, columns, height, out + j);
                }
            }
        }
    });
}

// One pass: outputs [i0, i0 + outer) of all rows.
template <class T, bool TRANSPOSED>
static void multiply_pass(const Linear4ManyArgs& a, int64_t i0, int64_t outer, float* scratch) {
    const Geometry& g = a.weight.geometry;
    const int64_t out_stride = TRANSPOSED ? g.cols : g.rows;
    const Table16 values(a.weight.book->values);
    const T* bias = static_cast<const T*>(a.bias);
    const Tiling tiling(a.m);
    const Slicing slicing(TRANSPOSED ? g.rows : g.cols, a.m);
    float* slivers = scratch;
    float* sums = scratch + kPassOutputs * kLongSlice;
    int64_t r0 = 0;
    do {  // once for an empty sum
        const int64_t reduce = slicing.length_at(r0);
        const bool last = r0 + reduce == slicing.depth;
        for (int64_t i = 0; i < outer; i += kOutputs) {
            const int64_t count = outer - i < kOutputs ? outer - i : kOutputs;
            decode_sliver<TRANSPOSED>(a.weight, values, i0 + i, count, r0, reduce,
                                      slivers + i * slicing.length);
        }
        for (int64_t tile = 0; tile < tiling.count; ++tile) {
            const int64_t first = tiling.begin(tile);
            const int64_t height = tiling.height_of(tile);
            const MultiplyTile<T> multiply = kMultiplyTile<T>[height - 1];
            for (int64_t i = 0; i < outer; i += kOutputs) {
                const TileResults<T> results{static_cast<T*>(a.out) + first * out_stride + i0 + i, out_stride,
                                             bias == nullptr ? nullptr : bias + i0 + i, outer - i};
                multiply(a.x + r0 * a.m + first * reduce, slivers + i * slicing.length, reduce, r0 == 0,
                         sums + first * kPassOutputs + i * height, last ? &results : nullptr);
            }
        }
        r0 += slicing.length;
    } while (r0 < slicing.depth);
}

void many_multiply(const Linear4ManyArgs& a, int64_t begin, int64_t end, float* scratch) {
    with_float_type(a.dtype, [&](auto t) {
        using T = decltype(t);
        const int64_t most = pass_outputs(a.m, a.transposed);
        for (int64_t i = begin; i < end; i += most) {
            const int64_t outer = end - i < most ? end - i : most;
            if (a.transposed) {
                multiply_pass<T, true>(a, i, outer, scratch);
            } else {
                multiply_pass<T, false>(a, i, outer, scratch);
            }
        }
    });
}

}  // namespace kq::KQ_ISA
