// Rows to codes and back.
#pragma once

#include "kernels/absmax.inl.h"
#include "kernels/dtypes.inl.h"
#include "kernels/int8/finish.inl.h"

namespace kq::KQ_ISA {

// Values looked at together where there are outliers.
constexpr int64_t kStretch = 256;
static_assert(kStretch % W == 0);

// Calls whole(i) for vectors of W elements, then rest(i, n) for the n < W last ones.
template <class Whole, class Rest>
[[gnu::always_inline]] static inline void for_vectors(int64_t count, Whole whole, Rest rest) {
    int64_t i = 0;
    for (; i + W <= count; i += W) whole(i);
    if (i < count) rest(i, static_cast<int>(count - i));
}

// The largest magnitude below the threshold, as bits; marks the columns of the others. A NaN is no outlier.
template <class T>
static uint32_t mark_outliers(const T* x, int64_t count, uint32_t threshold, uint8_t* outliers) {
    float values[kStretch];
    for_vectors(
        count, [&](int64_t i) { store(values + i, load(x + i)); },
        [&](int64_t i, int n) { store_n(values + i, load_n(x + i, n), n); });
    uint32_t bits[kStretch];
    std::memcpy(bits, values, static_cast<size_t>(count) * sizeof *bits);
    uint32_t largest = 0;
    // Without a branch: the compiler makes vectors of it.
    for (int64_t i = 0; i < count; ++i) {
        const uint32_t magnitude = bits[i] & 0x7fffffffu;
        const uint32_t outlier = static_cast<uint32_t>(magnitude >= threshold) & (magnitude <= kInfinityBits);
        outliers[i] = static_cast<uint8_t>(outliers[i] | outlier);
        const uint32_t kept = magnitude & (outlier - 1);
        largest = kept > largest ? kept : largest;
    }
    return largest;
}

// The same of a row, in most of which there are none.
template <class T>
static float absmax_without_outliers(const T* x, int64_t cols, uint32_t threshold, uint8_t* outliers) {
    uint32_t largest = 0;
    for (int64_t i = 0; i < cols; i += kStretch) {
        const int64_t count = cols - i < kStretch ? cols - i : kStretch;
        uint32_t found = bits_of(block_absmax(x + i, count));
        if (found >= threshold) found = mark_outliers(x + i, count, threshold, outliers + i);
        largest = found > largest ? found : largest;
    }
    return absmax_from_bits(largest);
}

void int8_absmax(const Int8RowsArgs& a, int64_t row_begin, int64_t row_end, uint8_t* outliers) {
    with_float_type(a.dtype, [&](auto t) {
        using T = decltype(t);
        const uint32_t threshold = bits_of(a.threshold);
        for (int64_t row = row_begin; row < row_end; ++row) {
            const T* x = static_cast<const T*>(a.x) + row * a.row_stride;
            a.absmax[row] = outliers == nullptr ? block_absmax(x, a.cols)
                                                : absmax_without_outliers(x, a.cols, threshold, outliers);
        }
    });
}

void int8_encode(const Int8RowsArgs& a, int64_t row, const OutlierColumns& columns, int8_t* codes) {
    const float absmax = a.absmax[row];
    if (!has_ratios(absmax)) {
        std::memset(codes, 0, static_cast<size_t>(a.cols));
        return;
    }
    // The reciprocal of a smaller one would overflow. Powers of two change nothing else.
    constexpr float kSmall = 0x1p-100f, kLarge = 0x1p64f;
    const float power = absmax < kSmall ? kLarge : 1.0f;
    const f32 scale = set1(power);
    const f32 inverse = set1(127.0f / (absmax * power));
    with_float_type(a.dtype, [&](auto t) {
        using T = decltype(t);
        const T* x = static_cast<const T*>(a.x) + row * a.row_stride;
        const auto ratio = [&](f32 v) { return mul(mul(v, scale), inverse); };
        for_vectors(
            a.cols, [&](int64_t i) { store_int8(codes + i, ratio(load(x + i))); },
            [&](int64_t i, int n) {
                int8_t last[W];
                store_int8(last, ratio(load_n(x + i, n)));
                std::memcpy(codes + i, last, static_cast<size_t>(n));
            });
    });
    for (int64_t i = 0; i < columns.count; ++i) codes[columns.index[i]] = 0;
}

void int8_gather(const Int8RowsArgs& a, int64_t row, const OutlierColumns& columns, float* out) {
    with_float_type(a.dtype, [&](auto t) {
        using T = decltype(t);
        const T* x = static_cast<const T*>(a.x) + row * a.row_stride;
        for (int64_t j = 0; j < columns.count; ++j) store_one(out + j, load_one(x + columns.index[j]));
    });
}

void int8_decode(const Int8DequantArgs& a, int64_t row_begin, int64_t row_end) {
    with_float_type(a.dtype, [&](auto t) {
        using T = decltype(t);
        for (int64_t row = row_begin; row < row_end; ++row) {
            const int8_t* codes = a.codes + row * a.cols;
            T* out = static_cast<T*>(a.out) + row * a.cols;
            const f32 step = set1(a.absmax[row] / kMostCode);
            for_vectors(
                a.cols,
                [&](int64_t i) {
                    if (i % kStretch == 0) prefetch_ahead(out + i, kStretch);
                    store(out + i, mul(load_int8(codes + i), step));
                },
                [&](int64_t i, int n) {
                    int8_t last[W] = {};
                    std::memcpy(last, codes + i, static_cast<size_t>(n));
                    store_n(out + i, mul(load_int8(last), step), n);
                });
        }
    });
}

void int8_descale(const Int8DescaleArgs& a, int64_t row_begin, int64_t row_end) {
    for (int64_t n = 0; n < a.finish.n; n += kFinishOutputs) {
        const int64_t left = a.finish.n - n;
        const int64_t count = left < kFinishOutputs ? left : kFinishOutputs;
        float prepared[kFinishOutputs];
        prepare_outputs(a.finish, n, count, prepared);
        finish_block(a.finish, {a.sums + row_begin * a.row_stride + n, a.row_stride, row_begin,
                                row_end - row_begin, n, count, prepared});
    }
}

}  // namespace kq::KQ_ISA
