// The scale of a block: its largest magnitude, with the policy for NaN and infinity (types.h).
#pragma once

#include "kernels/segments.inl.h"

namespace kq::KQ_ISA {

template <class T>
[[gnu::always_inline]] static inline float block_absmax(const T* x, int64_t n) {
    constexpr int64_t kLanes = AbsMax<T>::kLanes;
    AbsMax<T> largest;
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) largest.update(x + i);
    if (i < n) {
        T tail[kLanes] = {};
        std::memcpy(tail, x + i, static_cast<size_t>(n - i) * sizeof(T));
        largest.update(tail);
    }
    return absmax_from_bits(largest.value());
}

// The scales of consecutive blocks. Inline, as the functions around it, for block sizes that are constants.
template <class T>
[[gnu::always_inline]] static inline void write_absmax(const T* x, int64_t n, int64_t blocksize,
                                                       float* absmax) {
    for (; n >= blocksize; n -= blocksize, x += blocksize) {
        prefetch_ahead(x, blocksize);
        *absmax++ = block_absmax(x, blocksize);
    }
    if (n > 0) *absmax = block_absmax(x, n);
}

// Whether ratios to this scale exist. If not, every code of the block is the code of zero.
static inline bool has_ratios(float scale) { return scale > 0.0f && scale < __builtin_inff(); }

}  // namespace kq::KQ_ISA
