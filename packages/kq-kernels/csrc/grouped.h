// The products with the packed weights of many experts: which rows go to which, and who computes what.
#pragma once

#include <vector>

#include "linear.h"

namespace kq {

// The rows of the experts lie one after the other, counts[i] of them belong to expert i; so do the weights.
struct GroupedProblem {
    const void* x;       // forward [sum of counts, k]; backward [sum of counts, n]
    int64_t row_stride;  // of x
    DType dtype;
    const std::vector<int64_t>& counts;
    Weight4 weights;   // [experts * n, k]
    int64_t n;         // outputs of one expert
    const void* bias;  // [experts * n] of dtype, or null
    void* out;         // forward [sum of counts, n]; backward [sum of counts, k]
    int threads;       // 0: as many as OpenMP would use
};

// The bits of one linear_4bit for each expert.
void linear_4bit_grouped(const GroupedProblem& problem);

// The bits of one linear_4bit_backward for each expert.
void linear_4bit_grouped_backward(const GroupedProblem& problem);

}  // namespace kq
