// The gradient with respect to x of a product with an int8 weight, in float32: slivers of W are decoded into
// the level-2 cache, as those of a packed weight are. A code lies along the outputs of this product.
#pragma once

#include "kernels/int8/args.h"
#include "kernels/many_rows/pass.inl.h"

namespace kq::KQ_ISA {

static inline f32 load_int8_n(const int8_t* codes, int64_t count) {
    if (count >= W) return load_int8(codes);
    int8_t last[W] = {};
    if (count > 0) std::memcpy(last, codes, static_cast<size_t>(count));
    return load_int8(last);
}

void int8_backward(const Int8BackwardArgs& a, int64_t begin, int64_t end, float* scratch) {
    const ManyRows product{a.grad, a.m, a.n, a.k, nullptr, a.out};
    const auto decode = [&](int64_t col, int64_t count, int64_t row, int64_t reduce, float* to) {
        const int8_t* codes = a.weight + row * a.k + col;
        for (int64_t r = 0; r < reduce; ++r, codes += a.k, to += kOutputs) {
            prefetch_l2(codes + reduce * a.k);
            const f32 step = set1(a.absmax[row + r] / 127.0f);
            store(to, mul(load_int8_n(codes, count), step));
            store(to + W, mul(load_int8_n(codes + W, count - W), step));
        }
    };
    with_float_type(a.dtype, [&](auto t) {
        for (int64_t i = begin; i < end; i += kPassOutputs) {
            const int64_t outer = end - i < kPassOutputs ? end - i : kPassOutputs;
            multiply_pass<decltype(t)>(product, i, outer, decode, scratch);
        }
    });
}

}  // namespace kq::KQ_ISA
