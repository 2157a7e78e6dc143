// The scale of a block: its largest magnitude, with the policy for NaN and infinity (types.h).
#pragma once

namespace kq::KQ_ISA {

template <class T>
static inline float block_absmax(const T* x, int64_t n) {
    AbsMax largest;
    int64_t i = 0;
    for (; i + W <= n; i += W) largest.update(load(x + i));
    if (i < n) largest.update(load_n(x + i, static_cast<int>(n - i)));
    return absmax_from_bits(largest.value());
}

// Whether ratios to this scale exist. If not, every code of the block is the code of zero.
static inline bool has_ratios(float scale) { return scale > 0.0f && scale < __builtin_inff(); }

}  // namespace kq::KQ_ISA
