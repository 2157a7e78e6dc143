// From float32 sums to results.
#pragma once

#include "kernels/kernels.h"

namespace kq::KQ_ISA {

// The first `count` of the sums, at most W and none if it is not positive, plus the bias.
template <class T>
static inline void write_sums(f32 sums, const T* bias, int64_t count, T* out) {
    if (count >= W) {
        store(out, bias == nullptr ? sums : add(sums, load(bias)));
    } else if (count > 0) {
        const int n = static_cast<int>(count);
        store_n(out, bias == nullptr ? sums : add(sums, load_n(bias, n)), n);
    }
}

}  // namespace kq::KQ_ISA
