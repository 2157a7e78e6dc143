// The norms that trust ratios are made of: sums of squares over a range of blocks, in float64 and in the
// order of the elements. A first pass over a tensor, which writes nothing to it.
#pragma once

#include "kernels/optimizer/step.inl.h"

namespace kq::KQ_ISA {

static inline double sum_of_squares(const float* x, int64_t n) {
    constexpr int kSums = 16;  // as many as a vector of any instruction set can take
    double sums[kSums] = {};
    int64_t i = 0;
    for (; i + kSums <= n; i += kSums) {
        for (int j = 0; j < kSums; ++j) sums[j] += static_cast<double>(x[i + j]) * x[i + j];
    }
    double total = 0;
    for (; i < n; ++i) total += static_cast<double>(x[i]) * x[i];
    for (double sum : sums) total += sum;
    return total;
}

template <class Rule, bool kCoded>
static void square_blocks(const StepArgs& args, int64_t begin, int64_t end, Squares* squares) {
    StepArgs a = args;
    if (a.squares_of_gradients) a.gradient.coupled = 0;  // gradients without the decay
    StepWork w;
    for (int64_t block = begin; block < end; ++block) {
        start_work(a, w, block);
        const float* other = w.update.g;
        if (!a.squares_of_gradients) {
            w.update.directions = true;
            w.update.out = w.out;
            update<Rule, kCoded, false>(w.update);
            other = w.out;
        }
        squares->param += sum_of_squares(w.update.p, w.range.n);
        squares->other += sum_of_squares(other, w.range.n);
    }
}

}  // namespace kq::KQ_ISA
