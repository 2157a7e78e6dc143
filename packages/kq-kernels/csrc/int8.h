// The int8 operations: choice of kernel, scratch memory and threads.
#pragma once

#include "kernels/kernels.h"

namespace kq {

constexpr int64_t kMostInt8Depth = int64_t{1} << 17;  // sums of so many products fit 32 bits

// `outliers` [cols] is null without a threshold; `rows` has it as a float32.
void int8_quantize(const Int8RowsArgs& args, int64_t rows, int8_t* codes, uint8_t* outliers, int threads);
void int8_dequantize(const Int8DequantArgs& args, int64_t rows, int threads);
void int8_descale(const Int8DescaleArgs& args, int64_t rows, int threads);

struct Int8MatmulProblem {
    const int8_t* a;  // [m, k]
    int64_t row_stride;
    const int8_t* b;  // [n, k]
    int32_t* out;     // [m, n]
    int64_t m, n, k;
    int threads;
};
void int8_matmul(const Int8MatmulProblem& problem);

struct Int8LinearProblem {
    const void* x;  // forward [m, k]; backward [m, n]
    int64_t row_stride;
    DType dtype;
    int64_t m, n, k;
    const int8_t* weight;  // [n, k]
    const float* absmax;   // [n]
    const void* bias;      // [n] of dtype, or null
    void* out;             // forward [m, n]; backward [m, k]
    int threads;
};

// out = x W^T + bias. `threshold` is the smallest magnitude of an outlier, or null.
void int8_linear(const Int8LinearProblem& problem, const float* threshold);

// out = x W
void int8_linear_backward(const Int8LinearProblem& problem);

}  // namespace kq
