// Slivers of decoded weights: w(i, r) for 2 W neighbouring outputs i and a range of r, as float32 with i
// running fastest, so that the lanes of a vector are outputs and nothing has to be summed across lanes.
//
// Forward, i is a row of W and r a column. Codes lie along r, so W rows are transposed while they are still
// packed, 8 codes to a 32-bit word: after that, shifting a word right by 4t brings nibble t of W rows into
// place, and that is column 8j + (t ^ 1) because the first code of a byte is in its high nibble. Backward,
// i is a column, and codes come in the right order.
#pragma once

#include "kernels/linear_4bit/scales.inl.h"
#include "kernels/many_rows/tile.inl.h"
#include "kernels/words.inl.h"

namespace kq::KQ_ISA {

constexpr int64_t kMinBlock = 32;  // of 4-bit weights
static_assert(kMinBlock % 8 == 0 && kMinBlock % kOutputs == 0);

template <int NIBBLE>
static inline void decode_nibble(i32 words, f32 scale, const Table16& values, float* out) {
    store(out + (NIBBLE ^ 1) * kOutputs, mul(values[shift_right<4 * NIBBLE>(words)], scale));
}

// Eight columns of W rows.
static inline void decode_words(i32 words, f32 scale, const Table16& values, float* out) {
    decode_nibble<0>(words, scale, values, out);
    decode_nibble<1>(words, scale, values, out);
    decode_nibble<2>(words, scale, values, out);
    decode_nibble<3>(words, scale, values, out);
    decode_nibble<4>(words, scale, values, out);
    decode_nibble<5>(words, scale, values, out);
    decode_nibble<6>(words, scale, values, out);
    decode_nibble<7>(words, scale, values, out);
}

// Rows [i0, i0 + W) of W, of which `count` exist, columns [r0, r0 + reduce): W lanes of a sliver.
static inline void decode_rows(const Weight4& weight, const Table16& values, int64_t i0, int64_t count,
                               int64_t r0, int64_t reduce, float* out) {
    const Geometry& g = weight.geometry;
    const int64_t bytes = g.bytes_per_row();
    const int64_t blocks = g.blocks_per_row();
    const uint8_t* rows = weight.codes + i0 * bytes;
    float scale[W] = {};
    int64_t scaled_to = r0;  // columns before this have the scales in `scale`
    for (int64_t r = 0; r < reduce; r += 8 * W) {
        i32 words[W];
        for (int64_t j = 0; j < W; ++j) {
            words[j] = j < count ? load_row_words(rows + j * bytes, bytes, (r0 + r) / 2) : zero_i32();
            // The rows that are decoded next: W streams, too many for the processor to follow.
            prefetch_l2(rows + (j + kOutputs) * bytes + (r0 + r) / 2);
        }
        transpose(words);
        for (int64_t j = 0; j < W && r + 8 * j < reduce; ++j) {
            const int64_t col = r0 + r + 8 * j;
            if (col == scaled_to) {
                const int64_t block = col / g.blocksize;
                load_scales_apart(weight.scales, i0 * blocks + block, blocks, count < W ? count : W, scale);
                scaled_to = (block + 1) * g.blocksize;
            }
            decode_words(words[j], load(scale), values, out + (r + 8 * j) * kOutputs);
        }
    }
}

// Rows [r0, r0 + reduce) of W, columns [i0, i0 + outer): a whole sliver, and never more than one block of a
// row.
static inline void decode_columns(const Weight4& weight, const Table16& values, int64_t i0, int64_t outer,
                                  int64_t r0, int64_t reduce, float* out) {
    const Geometry& g = weight.geometry;
    const int64_t bytes = g.bytes_per_row();
    const int64_t blocks = g.blocks_per_row();
    const uint8_t* codes = weight.codes + r0 * bytes + i0 / 2;
    int64_t block = r0 * blocks + i0 / g.blocksize;
    for (int64_t r = 0; r < reduce; ++r, codes += bytes, block += blocks) {
        prefetch_l2(codes + reduce * bytes);
        i32 first, second;
        if (outer == kOutputs) {
            unpack(codes, &first, &second);
        } else {
            uint8_t tail[W] = {};
            std::memcpy(tail, codes, static_cast<size_t>((outer + 1) / 2));
            unpack(tail, &first, &second);
        }
        const f32 scale = set1(scale_of_block(weight.scales, block));
        store(out + r * kOutputs, mul(values[first], scale));
        store(out + r * kOutputs + W, mul(values[second], scale));
    }
}

template <bool TRANSPOSED>
static inline void decode_sliver(const Weight4& weight, const Table16& values, int64_t i0, int64_t outer,
                                 int64_t r0, int64_t reduce, float* out) {
    if (TRANSPOSED) {
        decode_columns(weight, values, i0, outer, r0, reduce, out);
    } else {
        decode_rows(weight, values, i0, outer < W ? outer : W, r0, reduce, out);
        decode_rows(weight, values, i0 + W, outer - W, r0, reduce, out + W);
    }
}

}  // namespace kq::KQ_ISA
