// Weights to tiles: 32 outputs and some values of the reduced dimension. A weight is code * scale in float32,
// rounded to bfloat16, which is what dequantize_4bit gives: sixteen roundings a block make a table of its
// values.
#pragma once

#include <algorithm>
#include <bit>

#include "kernels/linear_4bit/bf16_operands.inl.h"

namespace kq::amx {

// values * a in the lower half, values * b in the upper.
static inline avx512::i32 scaled_codes(avx512::f32 values, float a, float b) {
    return tile::round_pair(avx512::mul(values, avx512::set1(a)), avx512::mul(values, avx512::set1(b)));
}

// Indices for a look-up in tables: the lowest four bits of each word, and `table` above them.
static inline avx512::i32 codes_of(avx512::i32 words, avx512::i32 table) {
    constexpr int kFirstAndSecondOrThird = 0xea;
    return _mm512_ternarylogic_epi32(words, _mm512_set1_epi16(15), table, kFirstAndSecondOrThird);
}

// The numbers of the tables of a chunk, times 16: word i holds codes 4 i to 4 i + 3, and a block of 2^shift
// codes has a table.
static inline avx512::i32 table_of_words(int shift) {
    int16_t table[32];
    for (int i = 0; i < 32; ++i) table[i] = static_cast<int16_t>(4 * i >> shift << 4);
    return _mm512_loadu_si512(table);
}

// Which numbers of the four rows that a chunk is decoded to exist, if `left` of its codes do.
struct Kept {
    __mmask32 rows[kChunkTiles];
    explicit Kept(int64_t left) {
        for (int64_t j = 0; j < kChunkTiles; ++j) {
            const int64_t count = (left - j + 3) / 4;
            rows[j] = count >= 32 ? ~__mmask32{0} : (__mmask32{1} << count) - 1u;
        }
    }
};

// One chunk of a row. SHORT: its blocks have 32 weights, so that there are four.
template <bool SHORT>
static inline void decode_chunk(avx512::i32 words, const float* scale, avx512::f32 values, avx512::i32 table,
                                const Kept& kept, uint16_t* out) {
    const avx512::i32 low = scaled_codes(values, scale[0], scale[1]);
    const avx512::i32 high = SHORT ? scaled_codes(values, scale[2], scale[3]) : low;
    const auto decode = [&](int64_t j, avx512::i32 shifted) {
        const avx512::i32 index = codes_of(shifted, table);
        const avx512::i32 row = SHORT ? _mm512_maskz_permutex2var_epi16(kept.rows[j], low, index, high)
                                      : _mm512_maskz_permutexvar_epi16(kept.rows[j], index, low);
        _mm512_storeu_si512(out + j * 2 * kTile, row);
    };
    // The first code of a byte is in its high nibble.
    decode(0, _mm512_srli_epi16(words, 4));
    decode(1, words);
    decode(2, _mm512_srli_epi16(words, 12));
    decode(3, _mm512_srli_epi16(words, 8));
}

// Forward: rows [i0, i0 + 32) of W, of which `count` exist, columns [r0, r0 + reduce); r0 begins a chunk.
template <bool SHORT>
static void decode_rows(const Weight4& weight, int64_t i0, int64_t count, int64_t r0, int64_t reduce,
                        uint16_t* out) {
    const Geometry& g = weight.geometry;
    const int64_t bytes = g.bytes_per_row();
    const int64_t blocks = g.blocks_per_row();
    const avx512::f32 values = avx512::load(weight.book->values);
    const int shift = std::countr_zero(static_cast<uint64_t>(g.blocksize));
    const avx512::i32 table = table_of_words(shift);
    constexpr int64_t kBlocks = SHORT ? 4 : 2;  // of a chunk, at most
    for (int64_t r = 0; r < reduce; r += kChunk) {
        const int64_t col = r0 + r;
        const int64_t byte = col / 2;
        const __mmask64 loaded = bytes - byte >= 64 ? ~__mmask64{0} : (__mmask64{1} << (bytes - byte)) - 1u;
        const Kept kept(g.cols - col);
        int64_t block[kBlocks];
        for (int64_t b = 0; b < kBlocks; ++b) {
            block[b] = std::min((col + b * (kChunk / kBlocks)) >> shift, blocks - 1);
        }
        for (int64_t i = 0; i < kUnit; ++i) {
            // The second tile of a pair follows the last row of the first one.
            uint16_t* row = out + r / kTileDepth * 2 * kTile + i * kTileDepth;
            if (i >= count) {
                for (int64_t j = 0; j < kChunkTiles; ++j) {
                    _mm512_storeu_si512(row + j * 2 * kTile, avx512::zero_i32());
                }
                continue;
            }
            const uint8_t* codes = weight.codes + (i0 + i) * bytes + byte;
            // The rows that are decoded next: more streams than the processor can follow.
            avx512::prefetch_l2(codes + kUnit * bytes);
            float scale[kBlocks];
            for (int64_t b = 0; b < kBlocks; ++b) {
                scale[b] = scale_of_block(weight.scales, (i0 + i) * blocks + block[b]);
            }
            decode_chunk<SHORT>(_mm512_maskz_loadu_epi8(loaded, codes), scale, values, table, kept, row);
        }
    }
}

// Sixteen columns of two rows of W, eight bytes each that alternate: to pairs of weights.
static inline void decode_pairs(__m128i bytes, avx512::i32 table, uint16_t* out) {
    // A 64-bit lane holds a byte of either row and becomes four words: the first code of both, the second of
    // both.
    const avx512::i32 both = _mm512_cvtepu32_epi64(_mm256_cvtepu8_epi16(bytes));
    const avx512::i32 words = _mm512_or_si512(_mm512_srli_epi64(both, 4), _mm512_slli_epi64(both, 32));
    const avx512::i32 second_row = _mm512_set1_epi32(16 << 16);
    _mm512_storeu_si512(out, _mm512_permutexvar_epi16(codes_of(words, second_row), table));
}

// Backward: columns [i0, i0 + 32) of W, of which `count` exist, rows [r0, r0 + reduce); r0 begins a tile.
static inline void decode_columns(const Weight4& weight, int64_t i0, int64_t count, int64_t r0,
                                  int64_t reduce, uint16_t* out) {
    static_assert(kUnit <= 32, "columns of a unit lie in one block");
    const Geometry& g = weight.geometry;
    const int64_t bytes = g.bytes_per_row();
    const int64_t blocks = g.blocks_per_row();
    const avx512::f32 values = avx512::load(weight.book->values);
    const __mmask16 loaded = static_cast<__mmask16>((1u << ((count + 1) / 2)) - 1u);
    const int64_t block = i0 / g.blocksize;
    for (int64_t r = 0; r < round_up(reduce, kTileDepth); r += 2) {
        __m128i codes[2];
        float scale[2];
        for (int64_t j = 0; j < 2; ++j) {
            const bool exists = r + j < reduce;
            const int64_t row = r0 + r + j;
            codes[j] = exists ? _mm_maskz_loadu_epi8(loaded, weight.codes + row * bytes + i0 / 2) : __m128i{};
            scale[j] = exists ? scale_of_block(weight.scales, row * blocks + block) : 0.0f;
        }
        const avx512::i32 table = scaled_codes(values, scale[0], scale[1]);
        uint16_t* pairs = out + r / kTileDepth * 2 * kTile + r % kTileDepth / 2 * kTileDepth;
        decode_pairs(_mm_unpacklo_epi8(codes[0], codes[1]), table, pairs);
        decode_pairs(_mm_unpackhi_epi8(codes[0], codes[1]), table, pairs + kTile);
    }
}

// 32 outputs from i0 on, of which `count` exist, and `reduce` values of the reduced dimension from r0 on.
static inline void decode_unit(const Weight4& weight, bool transposed, int64_t i0, int64_t count, int64_t r0,
                               int64_t reduce, uint16_t* out) {
    if (transposed) {
        decode_columns(weight, i0, count, r0, reduce, out);
    } else if (weight.geometry.blocksize < 64) {
        decode_rows<true>(weight, i0, count, r0, reduce, out);
    } else {
        decode_rows<false>(weight, i0, count, r0, reduce, out);
    }
}

}  // namespace kq::amx
