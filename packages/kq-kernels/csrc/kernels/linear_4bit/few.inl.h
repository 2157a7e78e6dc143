// y = x W^T for a few rows of x: each packed weight is read once and decoded in registers.
//
// A chunk is W 32-bit words, 8 W weights. Word j holds the weights 8j..8j+7; shifting all words right by
// 4t brings nibble t of each into place, and that is weight 8j + (t ^ 1) because the first weight of a byte
// is in its high nibble. x is stored in this order once per call, so the weights need no rearrangement. The
// products use the bare codes; one more multiply-add per chunk applies the scales.
//
// FEW_GROUP rows of W are read side by side, so that a vector of x is loaded once for all of them.
#pragma once

#include "kernels/dtypes.inl.h"
#include "kernels/kernels.h"
#include "kernels/linear_4bit/scales.inl.h"
#include "kernels/write.inl.h"

namespace kq::KQ_ISA {

constexpr int64_t kChunk = 8 * W;
constexpr int64_t kChunkBytes = kChunk / 2;

int64_t few_stride(int64_t k) { return (k + kChunk - 1) / kChunk * kChunk; }

// The scales of a group of rows, and room for a load that reaches past the last.
int64_t few_scratch(const Geometry& g) { return FEW_GROUP * g.blocks_per_row() + 16; }

// Stored as [chunk][nibble][row][word].
void few_pack(const PackArgs& a) {
    with_float_type(a.dtype, [&](auto t) {
        using T = decltype(t);
        for (int64_t m = 0; m < a.m; ++m) {
            const T* x = static_cast<const T*>(a.x) + m * a.row_stride;
            for (int64_t chunk = 0; chunk < a.k; chunk += kChunk) {
                float plain[kChunk];
                for (int64_t i = 0; i < kChunk; i += W) {
                    const int64_t left = a.k - chunk - i;
                    if (left >= W) {
                        store(plain + i, load(x + chunk + i));
                    } else {
                        store(plain + i,
                              left > 0 ? load_n(x + chunk + i, static_cast<int>(left)) : set1(0.0f));
                    }
                }
                float* out = a.out + chunk * a.m + m * W;
                for (int nibble = 0; nibble < 8; ++nibble) {
                    for (int64_t j = 0; j < W; ++j) out[nibble * a.m * W + j] = plain[8 * j + (nibble ^ 1)];
                }
            }
        }
    });
}

template <int M, int R>
struct FewSums {
    f32 of[R][M];
};

// Adds the lowest nibble of each word times x and shifts it out. `FIRST` sets the sums.
template <bool FIRST, int M, int R>
static inline void few_nibble(i32 (&words)[R], const float* x, const Table16& values, FewSums<M, R>& sums) {
    f32 rows[M];
    for (int m = 0; m < M; ++m) rows[m] = load(x + m * W);
    for (int r = 0; r < R; ++r) {
        const f32 code = values[words[r]];
        words[r] = shift_right<4>(words[r]);
        for (int m = 0; m < M; ++m) {
            sums.of[r][m] = FIRST ? mul(code, rows[m]) : fma(code, rows[m], sums.of[r][m]);
        }
    }
}

template <int M, int R>
static inline void few_chunk(i32 (&words)[R], const float* x, const f32 (&scale)[R], const Table16& values,
                             FewSums<M, R>& total) {
    FewSums<M, R> sums;
    few_nibble<true>(words, x, values, sums);
#pragma GCC unroll 8
    for (int nibble = 1; nibble < 8; ++nibble) few_nibble<false>(words, x + nibble * M * W, values, sums);
    for (int r = 0; r < R; ++r) {
        for (int m = 0; m < M; ++m) total.of[r][m] = fma(sums.of[r][m], scale[r], total.of[r][m]);
    }
}

// Outputs [n, n + R) of M rows.
template <class T, int M, int R>
static inline void few_group(const Linear4FewArgs& a, const Table16& values, const SpreadScales& spread,
                             int64_t n, float* scales) {
    const Geometry& g = a.weight.geometry;
    const int64_t blocks = g.blocks_per_row();
    const int64_t bytes = g.bytes_per_row();
    const uint8_t* codes = a.weight.codes + n * bytes;
    load_scales(a.weight.scales, n * blocks, R * blocks, scales);
    FewSums<M, R> total;
    for (int r = 0; r < R; ++r) {
        for (int m = 0; m < M; ++m) total.of[r][m] = set1(0.0f);
    }
    const auto add_chunk = [&](int64_t byte, const auto& words_of, const auto& scale_of) {
        i32 words[R];
        f32 scale[R];
        for (int r = 0; r < R; ++r) {
            words[r] = words_of(codes + r * bytes + byte);
            scale[r] = scale_of(spread(scales + r * blocks, 2 * byte));
        }
        few_chunk(words, a.x + 2 * byte * M, scale, values, total);
    };
    int64_t byte = 0;
    for (; byte + kChunkBytes <= bytes; byte += kChunkBytes) {
        add_chunk(
            byte,
            [&](const uint8_t* p) {
                prefetch(p + R * bytes);  // the same place of the next group
                return load_u32(p);
            },
            [](f32 scale) { return scale; });
    }
    if (byte < bytes) {
        const int rest = static_cast<int>(bytes - byte);
        add_chunk(
            byte, [&](const uint8_t* p) { return load_u32_n(p, rest); },
            // Behind the row is the next one, and its scales, which need not be finite, are not to be seen.
            [&](f32 scale) { return keep_first(scale, (rest + 3) / 4); });
    }
    const T* bias = static_cast<const T*>(a.bias);
    for (int m = 0; m < M; ++m) {
        f32 rows[FEW_GROUP];
        for (int r = 0; r < FEW_GROUP; ++r) rows[r] = r < R ? total.of[r][m] : set1(0.0f);
        write_sums(sums(rows), bias == nullptr ? nullptr : bias + n, R,
                   static_cast<T*>(a.out) + m * g.rows + n);
    }
}

template <class T, int M>
static void few_rows(const Linear4FewArgs& a, int64_t begin, int64_t end, float* scales) {
    const Geometry& g = a.weight.geometry;
    const Table16 values(a.weight.book->values);
    const SpreadScales spread(g.blocksize);
    int64_t n = begin;
    for (; n + FEW_GROUP <= end; n += FEW_GROUP) few_group<T, M, FEW_GROUP>(a, values, spread, n, scales);
    for (; n < end; ++n) few_group<T, M, 1>(a, values, spread, n, scales);
}

void few_multiply(const Linear4FewArgs& a, int64_t begin, int64_t end, float* scratch) {
    static_assert(kFewRows == 4);
    with_float_type(a.dtype, [&](auto t) {
        using T = decltype(t);
        switch (a.m) {
            case 1: return few_rows<T, 1>(a, begin, end, scratch);
            case 2: return few_rows<T, 2>(a, begin, end, scratch);
            case 3: return few_rows<T, 3>(a, begin, end, scratch);
            default: return few_rows<T, 4>(a, begin, end, scratch);
        }
    });
}

}  // namespace kq::KQ_ISA
