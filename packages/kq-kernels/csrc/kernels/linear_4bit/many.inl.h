// Products of many rows of x with a packed weight, and the packing of x for all products of many rows.
#pragma once

#include "kernels/linear_4bit/sliver.inl.h"
#include "kernels/many_rows/pass.inl.h"

namespace kq::KQ_ISA {

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
        const Tiling tiling = tiling_of(a.m);
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

template <class T, bool TRANSPOSED>
static void multiply_outputs(const Linear4ManyArgs& a, int64_t begin, int64_t end, float* scratch) {
    const Geometry& g = a.weight.geometry;
    const Table16 values(a.weight.book->values);
    const ManyRows product{a.x,    a.m,  TRANSPOSED ? g.rows : g.cols, TRANSPOSED ? g.cols : g.rows,
                           a.bias, a.out};
    const int64_t most = pass_outputs(a.m, TRANSPOSED);
    for (int64_t i = begin; i < end; i += most) {
        multiply_pass<T>(
            product, i, end - i < most ? end - i : most,
            [&](int64_t first, int64_t count, int64_t r, int64_t reduce, float* to) {
                decode_sliver<TRANSPOSED>(a.weight, values, first, count, r, reduce, to);
            },
            scratch);
    }
}

void many_multiply(const Linear4ManyArgs& a, int64_t begin, int64_t end, float* scratch) {
    with_float_type(a.dtype, [&](auto t) {
        using T = decltype(t);
        if (a.transposed) {
            multiply_outputs<T, true>(a, begin, end, scratch);
        } else {
            multiply_outputs<T, false>(a, begin, end, scratch);
        }
    });
}

}  // namespace kq::KQ_ISA
