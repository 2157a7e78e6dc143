// The products with a packed weight: choice of kernel, scratch memory and threads.
#pragma once

#include "kernels/kernels.h"

namespace kq {

struct LinearProblem {
    const void* x;       // forward [m, k]; backward [m, n]
    int64_t row_stride;  // of x
    DType dtype;
    int64_t m;
    Weight4 weight;    // [n, k]
    const void* bias;  // [n] of dtype, or null
    void* out;         // forward [m, n]; backward [m, k]
    int threads;       // 0: as many as OpenMP would use
};

// out = x W^T + bias
void linear_4bit(const LinearProblem& problem);

// out = x W, the gradient with respect to the input of linear_4bit
void linear_4bit_backward(const LinearProblem& problem);

}  // namespace kq
