// Products of many rows of x with tiles of decoded weights.
//
// x is stored once per call in panels of 2 W rows, transposed, so that lanes run along the rows of x. A panel
// of weights is decoded to float32 (a size for the level-2 cache), and a tile of TILE weights at a time is
// broadcast against two vectors of x, all accumulators staying in registers. Every output is one chain of
// multiply-adds over the reduction in ascending order, so neither the partition nor the number of rows of x
// changes it. Forward and backward differ in which side of the panel is reduced.
#pragma once

#include "kernels/dequantize_4bit/decode.inl.h"
#include "kernels/dtypes.inl.h"
#include "kernels/kernels.h"

namespace kq::KQ_ISA {

constexpr int64_t kWide = 2 * W;

// The shape of a panel: long along the rows of W, which is the direction in which codes are decoded.
constexpr int64_t kPanelSize = 384 * 128;
template <bool TRANSPOSED>
constexpr int64_t kOuter = TRANSPOSED ? 384 : 96;
template <bool TRANSPOSED>
constexpr int64_t kReduce = kPanelSize / kOuter<TRANSPOSED>;
static_assert(kOuter<true> % TILE == 0 && kOuter<false> % TILE == 0);

int64_t many_tiles(int64_t m) { return (m + kWide - 1) / kWide; }

// A last tile of at most W rows is one vector wide.
static inline int64_t tile_width(int64_t m, int64_t tile) { return m - tile * kWide <= W ? W : kWide; }
static inline int64_t padded_rows(int64_t m) {
    return m == 0 ? 0 : (many_tiles(m) - 1) * kWide + tile_width(m, many_tiles(m) - 1);
}

int64_t many_size(int64_t m, int64_t k) { return padded_rows(m) * k; }
int64_t many_scratch(int64_t m) { return kPanelSize + kOuter<true> * padded_rows(m); }

void pack_many(const PackArgs& a, int64_t begin, int64_t end) {
    constexpr int64_t kStep = 4 * W;  // columns transposed at a time, within the level-1 cache
    with_float_type(a.dtype, [&](auto t) {
        using T = decltype(t);
        for (int64_t tile = begin; tile < end; ++tile) {
            const int64_t width = tile_width(a.m, tile);
            float* out = a.out + tile * kWide * a.k;
            for (int64_t k0 = 0; k0 < a.k; k0 += kStep) {
                const int64_t columns = a.k - k0 < kStep ? a.k - k0 : kStep;
                for (int64_t j = 0; j < width; ++j) {
                    const int64_t row = tile * kWide + j;
                    float values[kStep] = {};
                    if (row < a.m) {
                        const T* x = static_cast<const T*>(a.x) + row * a.row_stride + k0;
                        int64_t i = 0;
                        for (; i + W <= columns; i += W) store(values + i, load(x + i));
                        if (i < columns) store(values + i, load_n(x + i, static_cast<int>(columns - i)));
                    }
                    for (int64_t i = 0; i < columns; ++i) out[(k0 + i) * width + j] = values[i];
                }
            }
        }
    });
}

// c[i, 0..V*W) += sum over r of w(i, r) * x[r, 0..V*W), for TILE values of i.
template <int V, bool TRANSPOSED>
static inline void multiply_tile(const float* w, const float* x, int64_t reduce, bool accumulate, float* c,
                                 int64_t ldc) {
    f32 acc[TILE][V];
    for (int i = 0; i < TILE; ++i) {
        for (int v = 0; v < V; ++v) acc[i][v] = accumulate ? load(c + i * ldc + v * W) : set1(0.0f);
    }
    for (int64_t r = 0; r < reduce; ++r) {
        f32 rows[V];
        for (int v = 0; v < V; ++v) rows[v] = load(x + (r * V + v) * W);
#pragma GCC unroll 16
        for (int i = 0; i < TILE; ++i) {
            const f32 weight = set1(TRANSPOSED ? w[r * kOuter<true> + i] : w[i * kReduce<false> + r]);
            for (int v = 0; v < V; ++v) acc[i][v] = fma(weight, rows[v], acc[i][v]);
        }
    }
    for (int i = 0; i < TILE; ++i) {
        for (int v = 0; v < V; ++v) store(c + i * ldc + v * W, acc[i][v]);
    }
}

// Decodes w(i, r) for `outer` values of i and `reduce` of r. Outputs that fill up the last tile get zeros.
template <bool TRANSPOSED>
static inline void decode_panel(const Weight4& weight, const Table16& values, int64_t i0, int64_t outer,
                                int64_t r0, int64_t reduce, float* panel) {
    const Geometry& g = weight.geometry;
    const int64_t filled = (outer + TILE - 1) / TILE * TILE;
    if (TRANSPOSED) {
        for (int64_t r = 0; r < reduce; ++r) {
            float* row = panel + r * kOuter<true>;
            decode_row(weight.codes, weight.scales, g, values, r0 + r, i0, i0 + outer, row);
            for (int64_t i = outer; i < filled; ++i) row[i] = 0.0f;
        }
    } else {
        for (int64_t i = 0; i < outer; ++i) {
            decode_row(weight.codes, weight.scales, g, values, i0 + i, r0, r0 + reduce,
                       panel + i * kReduce<false>);
        }
        const int64_t rest = (filled - outer) * kReduce<false>;
        std::memset(panel + outer * kReduce<false>, 0, static_cast<size_t>(rest) * sizeof(float));
    }
}

template <bool TRANSPOSED>
static inline void multiply_panel(const Linear4ManyArgs& a, const float* panel, int64_t outer, int64_t r0,
                                  int64_t reduce, int64_t depth, float* c, int64_t ldc) {
    for (int64_t tile = 0; tile < many_tiles(a.m); ++tile) {
        const int64_t width = tile_width(a.m, tile);
        const float* x = a.x + tile * kWide * depth + r0 * width;
        for (int64_t i = 0; i < outer; i += TILE) {
            const float* w = panel + (TRANSPOSED ? i : i * kReduce<false>);
            float* corner = c + i * ldc + tile * kWide;
            if (width == kWide) {
                multiply_tile<2, TRANSPOSED>(w, x, reduce, r0 > 0, corner, ldc);
            } else {
                multiply_tile<1, TRANSPOSED>(w, x, reduce, r0 > 0, corner, ldc);
            }
        }
    }
}

// out[m, i0..i0+outer) from the transposed sums in c, plus bias.
template <class T, bool TRANSPOSED>
static inline void write_outputs(const Linear4ManyArgs& a, const float* c, int64_t ldc, int64_t i0,
                                 int64_t outer, int64_t out_stride) {
    const T* bias = static_cast<const T*>(a.bias);
    for (int64_t m = 0; m < a.m; ++m) {
        float row[kOuter<TRANSPOSED>];
        for (int64_t i = 0; i < outer; ++i) row[i] = c[i * ldc + m];
        T* out = static_cast<T*>(a.out) + m * out_stride + i0;
        for (int64_t i = 0; i < outer; i += W) {
            const int n = static_cast<int>(outer - i < W ? outer - i : W);
            const bool whole = n == W;
            f32 y = whole ? load(row + i) : load_n(row + i, n);
            if (bias != nullptr) y = add(y, whole ? load(bias + i0 + i) : load_n(bias + i0 + i, n));
            if (whole) {
                store(out + i, y);
            } else {
                store_n(out + i, y, n);
            }
        }
    }
}

template <class T, bool TRANSPOSED>
static void many_rows(const Linear4ManyArgs& a, int64_t begin, int64_t end, float* scratch) {
    const Geometry& g = a.weight.geometry;
    const int64_t depth = TRANSPOSED ? g.rows : g.cols;
    const int64_t out_stride = TRANSPOSED ? g.cols : g.rows;
    const int64_t ldc = padded_rows(a.m);
    const Table16 values(a.weight.book->values);
    float* panel = scratch;
    float* c = scratch + kPanelSize;
    if (depth == 0) std::memset(c, 0, static_cast<size_t>(kOuter<TRANSPOSED> * ldc) * sizeof(float));
    for (int64_t i0 = begin; i0 < end; i0 += kOuter<TRANSPOSED>) {
        const int64_t outer = end - i0 < kOuter<TRANSPOSED> ? end - i0 : kOuter<TRANSPOSED>;
        for (int64_t r0 = 0; r0 < depth; r0 += kReduce<TRANSPOSED>) {
            const int64_t reduce = depth - r0 < kReduce<TRANSPOSED> ? depth - r0 : kReduce<TRANSPOSED>;
            decode_panel<TRANSPOSED>(a.weight, values, i0, outer, r0, reduce, panel);
            multiply_panel<TRANSPOSED>(a, panel, outer, r0, reduce, depth, c, ldc);
        }
        write_outputs<T, TRANSPOSED>(a, c, ldc, i0, outer, out_stride);
    }
}

void linear_4bit_many(const Linear4ManyArgs& a, int64_t begin, int64_t end, float* scratch) {
    with_float_type(a.dtype, [&](auto t) {
        using T = decltype(t);
        if (a.transposed) {
            many_rows<T, true>(a, begin, end, scratch);
        } else {
            many_rows<T, false>(a, begin, end, scratch);
        }
    });
}

}  // namespace kq::KQ_ISA
