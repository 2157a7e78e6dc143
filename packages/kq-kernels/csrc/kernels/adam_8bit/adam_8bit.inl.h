// One Adam step with both moments in 8 bits, fused: decode, update the parameter from the exact new moments,
// then re-encode them with the block's new scales. Formula: Kingma and Ba, arXiv 1412.6980, algorithm 1 in
// the form of its section 2 (bias corrections folded into step size and eps); decoupled decay: arXiv
// 1711.05101.
#pragma once

#include "kernels/dtypes.inl.h"
#include "kernels/kernels.h"
#include "kernels/quantize_blockwise/encode.inl.h"

namespace kq::KQ_ISA {

struct AdamVectors {
    f32 beta1, beta2, rest1, rest2, step_size, eps, decay, l2, sign;
    explicit AdamVectors(const Adam8Hyper& h)
        : beta1(set1(h.beta1)),
          beta2(set1(h.beta2)),
          rest1(set1(h.one_minus_beta1)),
          rest2(set1(h.one_minus_beta2)),
          step_size(set1(h.step_size)),
          eps(set1(h.eps)),
          decay(set1(h.decay)),
          l2(set1(h.l2)),
          sign(set1(h.grad_sign)) {}

    // Updates the moments in place and returns the new parameter.
    f32 operator()(f32 p, f32 g, f32* m, f32* v) const {
        g = fma(l2, p, mul(sign, g));
        *m = fma(beta1, *m, mul(rest1, g));
        *v = fma(beta2, *v, mul(rest2, mul(g, g)));
        const f32 ratio = div(*m, add(sqrt(*v), eps));
        return sub(mul(p, decay), mul(step_size, ratio));
    }
};

template <class T>
static inline void adam_block(const Adam8Args& a, const AdamVectors& update, int64_t start, int64_t n,
                              float* scale1, float* scale2) {
    T* param = static_cast<T*>(a.param) + start;
    const T* grad = static_cast<const T*>(a.grad) + start;
    uint8_t* codes1 = a.codes1 + start;
    uint8_t* codes2 = a.codes2 + start;
    const f32 s1 = set1(*scale1), s2 = set1(*scale2);
    const Table256 values1(a.book1->values), values2(a.book2->values);
    float first[kAdamBlock], second[kAdamBlock];

    int64_t i = 0;
    for (; i + W <= n; i += W) {
        f32 m = mul(values1[load_u8(codes1 + i)], s1);
        f32 v = mul(values2[load_u8(codes2 + i)], s2);
        store(param + i, update(load(param + i), load(grad + i), &m, &v));
        store(first + i, m);
        store(second + i, v);
    }
    if (i < n) {
        const int rest = static_cast<int>(n - i);
        f32 m = mul(values1[load_u8_n(codes1 + i, rest)], s1);
        f32 v = mul(values2[load_u8_n(codes2 + i, rest)], s2);
        store_n(param + i, update(load_n(param + i, rest), load_n(grad + i, rest), &m, &v), rest);
        store_n(first + i, m, rest);
        store_n(second + i, v, rest);
    }
    *scale1 = block_absmax(first, n);
    *scale2 = block_absmax(second, n);
    encode_block_8bit(first, n, *scale1, *a.book1, codes1);
    encode_block_8bit(second, n, *scale2, *a.book2, codes2);
}

void adam_8bit(const Adam8Args& a, int64_t begin, int64_t end) {
    const AdamVectors update(a.hyper);
    with_float_type(a.dtype, [&](auto t) {
        for (int64_t block = begin; block < end; ++block) {
            const int64_t start = block * kAdamBlock;
            const int64_t n = a.size - start < kAdamBlock ? a.size - start : kAdamBlock;
            adam_block<decltype(t)>(a, update, start, n, a.absmax1 + block, a.absmax2 + block);
        }
    });
}

}  // namespace kq::KQ_ISA
