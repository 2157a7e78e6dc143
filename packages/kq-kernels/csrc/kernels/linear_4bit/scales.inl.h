// The scales of several blocks at a time, plain or double quantized.
#pragma once

#include "kernels/kernels.h"

namespace kq::KQ_ISA {

// out[i] = the scale of block `first` + i, rounded as scale_of_block rounds it.
static inline void load_scales(const Scales& s, int64_t first, int64_t count, float* out) {
    constexpr int64_t kNestedBlock = 256;
    first += s.first_block;
    if (s.absmax != nullptr) {
        int64_t i = 0;  // too few for a call of memcpy
        for (; i + W <= count; i += W) store(out + i, load(s.absmax + first + i));
        if (i < count) {
            const int n = static_cast<int>(count - i);
            store_n(out + i, load_n(s.absmax + first + i, n), n);
        }
        return;
    }
    const Table256 values(s.nested_code);
    const f32 offset = set1(s.offset);
    for (int64_t i = 0; i < count;) {
        const int64_t block = first + i;
        const f32 scale = set1(s.nested_absmax[block / kNestedBlock]);
        const int64_t limit = (block / kNestedBlock + 1) * kNestedBlock - first;
        const int64_t stop = limit < count ? limit : count;
        for (; i + W <= stop; i += W) {
            store(out + i, add(mul(values[load_u8(s.codes + first + i)], scale), offset));
        }
        if (i < stop) {
            const int n = static_cast<int>(stop - i);
            store_n(out + i, add(mul(values[load_u8_n(s.codes + first + i, n)], scale), offset), n);
            i = stop;
        }
    }
}

// The same for blocks `stride` apart: those of a column of blocks.
static inline void load_scales_apart(const Scales& s, int64_t first, int64_t stride, int64_t count,
                                     float* out) {
    if (s.absmax != nullptr) {
        const float* absmax = s.absmax + s.first_block + first;
        for (int64_t i = 0; i < count; ++i) out[i] = absmax[i * stride];
    } else {
        for (int64_t i = 0; i < count; ++i) out[i] = scale_of_block(s, first + i * stride);
    }
}

}  // namespace kq::KQ_ISA
