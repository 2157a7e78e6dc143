// y = x W^T for a few rows of x: each packed weight is read once and decoded in registers.
//
// A chunk is W 32-bit words, 8 W weights. Word j holds the weights 8j..8j+7; shifting all words right by
// 4t brings nibble t of each into place, and that is weight 8j + (t ^ 1) because the first weight of a byte
// is in its high nibble. x is stored in this order once per call, so the weights need no rearrangement. The
// products use the bare codes; one more multiply-add per chunk applies the scales.
#pragma once

#include "kernels/dtypes.inl.h"
#include "kernels/kernels.h"

namespace kq::KQ_ISA {

constexpr int64_t kChunk = 8 * W;

int64_t few_stride(int64_t k) { return (k + kChunk - 1) / kChunk * kChunk; }

// The scales of one row, and room for a load that reaches past the last.
int64_t few_scratch(const Geometry& g) { return g.blocks_per_row() + 16; }

void pack_few(const PackArgs& a) {
    with_float_type(a.dtype, [&](auto t) {
        using T = decltype(t);
        const int64_t stride = few_stride(a.k);
        for (int64_t m = 0; m < a.m; ++m) {
            const T* x = static_cast<const T*>(a.x) + m * a.row_stride;
            float* out = a.out + m * stride;
            for (int64_t chunk = 0; chunk < stride; chunk += kChunk) {
                float plain[kChunk];
                for (int64_t i = 0; i < kChunk; i += W) {
                    const int64_t left = a.k - chunk - i;
                    if (left >= W) {
                        store(plain + i, load(x + chunk + i));
                    } else {
                        store(plain + i,
                              left > 0 ? load_n(x + chunk + i, static_cast<int>(left)) : set1(0.0f));
                    }
                }
                for (int nibble = 0; nibble < 8; ++nibble) {
                    for (int64_t j = 0; j < W; ++j) {
                        out[chunk + nibble * W + j] = plain[8 * j + (nibble ^ 1)];
                    }
                }
            }
        }
    });
}

template <int M>
static inline void few_chunk(const uint8_t* words, const float* x, int64_t stride, f32 scale,
                             const Table16& values, f32 (&acc)[M]) {
    const i32 w = load_u32(words);
    const f32 code[8] = {values[w],
                         values[shift_right<4>(w)],
                         values[shift_right<8>(w)],
                         values[shift_right<12>(w)],
                         values[shift_right<16>(w)],
                         values[shift_right<20>(w)],
                         values[shift_right<24>(w)],
                         values[shift_right<28>(w)]};
    for (int m = 0; m < M; ++m) {
        f32 even = mul(code[0], load(x + m * stride));
        f32 odd = mul(code[1], load(x + m * stride + W));
        for (int nibble = 2; nibble < 8; nibble += 2) {
            even = fma(code[nibble], load(x + m * stride + nibble * W), even);
            odd = fma(code[nibble + 1], load(x + m * stride + (nibble + 1) * W), odd);
        }
        acc[m] = fma(add(even, odd), scale, acc[m]);
    }
}

template <class T, int M>
static void few_rows(const Linear4FewArgs& a, int64_t begin, int64_t end, float* scales) {
    constexpr int64_t kChunkBytes = kChunk / 2;
    constexpr int64_t kPrefetch = 2048;  // bytes ahead: the hardware prefetcher stops at a page's end
    const Geometry& g = a.weight.geometry;
    const int64_t blocks = g.blocks_per_row();
    const int64_t bytes = g.bytes_per_row();
    const int64_t stride = few_stride(g.cols);
    const Table16 values(a.weight.book->values);
    const int block_shift = __builtin_ctzll(static_cast<unsigned long long>(g.blocksize));
    for (int64_t i = blocks; i < few_scratch(g); ++i) scales[i] = 0.0f;

    for (int64_t n = begin; n < end; ++n) {
        for (int64_t b = 0; b < blocks; ++b) scales[b] = scale_of_block(a.weight.scales, n * blocks + b);
        const uint8_t* row = a.weight.codes + n * bytes;
        f32 acc[M];
        for (int m = 0; m < M; ++m) acc[m] = set1(0.0f);
        int64_t byte = 0;
        for (; byte + kChunkBytes <= bytes; byte += kChunkBytes) {
            prefetch(row + byte + kPrefetch);
            const f32 scale = spread_scales(scales + (2 * byte >> block_shift), g.blocksize);
            few_chunk(row + byte, a.x + 2 * byte, stride, scale, values, acc);
        }
        if (byte < bytes) {
            uint8_t tail[kChunkBytes] = {};
            std::memcpy(tail, row + byte, static_cast<size_t>(bytes - byte));
            const f32 scale = spread_scales(scales + (2 * byte >> block_shift), g.blocksize);
            few_chunk(tail, a.x + 2 * byte, stride, scale, values, acc);
        }
        for (int m = 0; m < M; ++m) {
            T* y = static_cast<T*>(a.out) + m * g.rows + n;
            const f32 total = set1(sum(acc[m]));
            const T* bias = static_cast<const T*>(a.bias);
            store_one(y, bias == nullptr ? total : add(total, load_one(bias + n)));
        }
    }
}

void linear_4bit_few(const Linear4FewArgs& a, int64_t begin, int64_t end, float* scratch) {
    static_assert(kFewRows == 4);
    with_float_type(a.dtype, [&](auto t) {
        using T = decltype(t);
        switch (a.m) {
            case 1: return few_rows<T, 1>(a, begin, end, scratch);
            case 2: return few_rows<T, 2>(a, begin, end, scratch);
            case 3: return few_rows<T, 3>(a, begin, end, scratch);
            default: return few_rows<T, 4>(a, begin, end, scratch);
        }
    });
}

}  // namespace kq::KQ_ISA
