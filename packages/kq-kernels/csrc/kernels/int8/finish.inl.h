// From sums of products of codes to results: scales, outliers, bias, and the only rounding to the type of
// the output.
#pragma once

#include "kernels/dtypes.inl.h"
#include "kernels/int8/args.h"
#include "kernels/write.inl.h"

namespace kq::KQ_ISA {

constexpr float kMostCode = 127.0f;
constexpr float kScaleOfProduct = 1.0f / (kMostCode * kMostCode);

// Outputs that are finished together, at most.
constexpr int64_t kFinishOutputs = 128;
static_assert(kFinishOutputs % W == 0);

// A block of sums: `rows` rows from `row` on, `count` outputs from `n` on.
struct FinishBlock {
    const int32_t* sums;
    int64_t stride;
    int64_t row, rows;
    int64_t n, count;
    const float* prepared;  // by prepare_outputs
};

// What only depends on the outputs: their scales, then for each outlier column its decoded weights.
static inline int64_t prepared_size(int64_t outlier_columns) {
    return (1 + outlier_columns) * kFinishOutputs;
}

static inline void prepare_outputs(const Int8Finish& a, int64_t n, int64_t count, float* prepared) {
    std::memset(prepared, 0, static_cast<size_t>(prepared_size(a.columns.count)) * sizeof *prepared);
    for (int64_t i = 0; i < count; ++i) {
        const float absmax = a.column_absmax[n + i];
        const int8_t* row = a.weight + (n + i) * a.k;
        prepared[i] = absmax * kScaleOfProduct;
        for (int64_t j = 0; j < a.columns.count; ++j) {
            const float code = static_cast<float>(row[a.columns.index[j]]);
            prepared[(1 + j) * kFinishOutputs + i] = code * (absmax / kMostCode);
        }
    }
}

static inline f32 load_sums(const int32_t* sums, int64_t count) {
    if (count >= W) return load_int32(sums);
    int32_t last[W] = {};
    std::memcpy(last, sums, static_cast<size_t>(count) * sizeof *last);
    return load_int32(last);
}

static inline void finish_block(const Int8Finish& a, const FinishBlock& b) {
    with_float_type(a.dtype, [&](auto t) {
        using T = decltype(t);
        const T* bias = a.bias == nullptr ? nullptr : static_cast<const T*>(a.bias) + b.n;
        for (int64_t row = b.row; row < b.row + b.rows; ++row) {
            const int32_t* sums = b.sums + (row - b.row) * b.stride;
            T* out = static_cast<T*>(a.out) + row * a.n + b.n;
            const f32 scale = set1(a.row_absmax[row]);
            const float* x = a.outliers + row * a.columns.count;
            for (int64_t i = 0; i < b.count; i += W) {
                f32 v = mul(load_sums(sums + i, b.count - i), mul(scale, load(b.prepared + i)));
                for (int64_t j = 0; j < a.columns.count; ++j) {
                    v = fma(set1(x[j]), load(b.prepared + (1 + j) * kFinishOutputs + i), v);
                }
                write_sums(v, bias == nullptr ? nullptr : bias + i, b.count - i, out + i);
            }
        }
    });
}

// The same for a product, whose bare sums may be what is asked for.
static inline void prepare_outputs(const Int8ProductArgs& a, int64_t n, int64_t count, float* prepared) {
    if (a.sums == nullptr) prepare_outputs(a.finish, n, count, prepared);
}
static inline void finish_block(const Int8ProductArgs& a, const FinishBlock& b) {
    if (a.sums == nullptr) return finish_block(a.finish, b);
    for (int64_t i = 0; i < b.rows; ++i) {
        std::memcpy(a.sums + (b.row + i) * a.n + b.n, b.sums + i * b.stride,
                    static_cast<size_t>(b.count) * sizeof *a.sums);
    }
}

}  // namespace kq::KQ_ISA
