// Encoding with AVX-512. The interface is explained in scalar_codes.h.
#pragma once

#include "codebooks.h"
#include "kernels/vec/avx512.h"

namespace kq::avx512 {

static inline f32 products_down(const double* t, double s) {
    constexpr int kDown = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
    const __m512d scale = _mm512_set1_pd(s);
    const __m256 low = _mm512_cvt_roundpd_ps(_mm512_mul_pd(_mm512_loadu_pd(t), scale), kDown);
    const __m256 high = _mm512_cvt_roundpd_ps(_mm512_mul_pd(_mm512_loadu_pd(t + 8), scale), kDown);
    return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}

// Packing four vectors to bytes works within lanes of 128 bits and leaves four bytes of each vector in each.
static inline i32 pack_bytes(i32 a, i32 b, i32 c, i32 d) {
    const i32 order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const i32 bytes = _mm512_packus_epi16(_mm512_packus_epi32(a, b), _mm512_packus_epi32(c, d));
    return _mm512_permutexvar_epi32(order, bytes);
}

static inline i32 add_where(i32 a, __mmask16 where, int32_t b) {
    return _mm512_mask_add_epi32(a, where, a, _mm512_set1_epi32(b));
}
static inline __mmask16 above(f32 x, f32 threshold) { return _mm512_cmp_ps_mask(x, threshold, _CMP_GT_OQ); }

template <bool kRegular>
struct Search16;

// The bin of x / scale on a grid leaves one threshold to compare with. The quotient may be off by a rounding
// or two: codebooks.cpp has made sure that this does not matter.
template <>
struct Search16<true> {
    static constexpr float kSmallestScale = 0x1p-120f;  // its reciprocal is far from infinity
    f32 thresholds, bins_per_value;
    i32 ranks_low, ranks_high;
    Search16(const Codebook4& book, float scale)
        : thresholds(products_down(book.thresholds, scale)),
          bins_per_value(set1(kBinsPerUnit / scale)),
          ranks_low(_mm512_loadu_si512(book.rank_of_bin)),
          ranks_high(_mm512_loadu_si512(book.rank_of_bin + 16)) {}
    i32 operator()(f32 x) const {
        // Adding 2^23 rounds to an integer, which is then in the lowest bits.
        const i32 bin = _mm512_castps_si512(fma(x, bins_per_value, set1(0x1p23f + kMiddleBin)));
        const i32 rank = _mm512_permutex2var_epi32(ranks_low, bin, ranks_high);
        return add_where(rank, above(x, _mm512_permutexvar_ps(rank, thresholds)), 1);
    }
};

template <>
struct Search16<false> {
    f32 tree;
    i32 code_of_rank;
    Search16(const Codebook4& book, float scale)
        : tree(products_down(book.tree, scale)), code_of_rank(_mm512_loadu_si512(book.code_of_rank)) {}
    i32 operator()(f32 x) const {
        i32 node = _mm512_set1_epi32(1);
        for (int level = 0; level < 4; ++level) {
            node = add_where(_mm512_slli_epi32(node, 1), above(x, _mm512_permutexvar_ps(node, tree)), 1);
        }
        return _mm512_permutexvar_epi32(node, code_of_rank);
    }
};

constexpr int kGroup = 4 * W;

template <class Search, class T>
static inline void encode_group(const Search& code_of, const T* x, uint8_t* codes) {
    const i32 bytes = pack_bytes(code_of(load(x)), code_of(load(x + W)), code_of(load(x + 2 * W)),
                                 code_of(load(x + 3 * W)));
    const i32 pairs = _mm512_maddubs_epi16(bytes, _mm512_set1_epi16(0x0110));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), _mm512_cvtepi16_epi8(pairs));
}

// The halves of 32-bit words are pairs already.
template <class Search>
static inline i32 encode_words(const Search& code_of, i32 words) {
    const i32 first = code_of(_mm512_castsi512_ps(_mm512_slli_epi32(words, 16)));
    const i32 second = code_of(_mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(~0xffff))));
    return _mm512_or_si512(_mm512_slli_epi32(first, 4), second);
}
template <class Search>
static inline void encode_group(const Search& code_of, const bf16* x, uint8_t* codes) {
    const i32 first = encode_words(code_of, _mm512_loadu_si512(x));
    const i32 second = encode_words(code_of, _mm512_loadu_si512(x + 2 * W));
    const __m256i bytes = _mm512_cvtepi16_epi8(_mm512_packus_epi32(first, second));
    const __m256i order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), _mm256_permutevar8x32_epi32(bytes, order));
}

// A level of the tree has its thresholds in the order of the path that leads to them, the first decision in
// the lowest bit. So look-ups by the first five decisions, in the two registers that a permutation can take,
// serve the last three levels at once; the decisions in between choose among them as masks.
struct Search256 {
    static constexpr int kCodes = 4 * W;
    alignas(64) float tree[256];
    Search256(const Codebook8& book, float scale) {
        for (int i = 0; i < 256; i += W) store(tree + i, products_down(book.tree + i, scale));
    }

    template <class T>
    void operator()(const T* x, uint8_t* codes) const {
        const f32 v[4] = {load(x), load(x + W), load(x + 2 * W), load(x + 3 * W)};
        i32 path[4];
        first_five(v, path);
        last_three(v, path);
        _mm512_storeu_si512(codes, reverse_bits(pack_bytes(path[0], path[1], path[2], path[3])));
    }

  private:
    // Level by level for all vectors, because the processor looks ahead by about two paths only.
    void first_five(const f32 (&v)[4], i32 (&path)[4]) const {
        const f32 root = set1(tree[1]), below = set1(tree[2]), above_root = set1(tree[3]);
        f32 next[4];
        for (int i = 0; i < 4; ++i) {
            const __mmask16 k = above(v[i], root);
            path[i] = _mm512_maskz_mov_epi32(k, _mm512_set1_epi32(1));
            next[i] = _mm512_mask_blend_ps(k, below, above_root);
        }
        for (int i = 0; i < 4; ++i) path[i] = add_where(path[i], above(v[i], next[i]), 2);
        // A permutation by four bits: tables shorter than 16 are followed by the next level's.
        for (int level = 2; level < 5; ++level) {
            const f32 table = load(tree + (1 << level));
            for (int i = 0; i < 4; ++i) {
                const f32 threshold = _mm512_permutexvar_ps(path[i], table);
                path[i] = add_where(path[i], above(v[i], threshold), 1 << level);
            }
        }
    }

    void last_three(const f32 (&v)[4], i32 (&path)[4]) const {
        for (int i = 0; i < 4; ++i) {
            const __mmask16 k5 = above(v[i], look_up_32(tree + 32, path[i]));
            const __mmask16 k6 = above(v[i], choose(tree + 64, path[i], k5));
            const f32 threshold =
                _mm512_mask_blend_ps(k6, choose(tree + 128, path[i], k5), choose(tree + 192, path[i], k5));
            const __mmask16 k7 = above(v[i], threshold);
            path[i] = add_where(add_where(add_where(path[i], k5, 32), k6, 64), k7, 128);
        }
    }
    static f32 choose(const float* table, i32 path, __mmask16 second) {
        return _mm512_mask_blend_ps(second, look_up_32(table, path), look_up_32(table + 32, path));
    }

    static i32 reverse_bits(i32 bytes) {
        const i32 low = _mm512_set1_epi8(15);
        const i32 reversed =
            _mm512_broadcast_i32x4(_mm_setr_epi8(0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15));
        const i32 first = _mm512_shuffle_epi8(reversed, _mm512_and_si512(bytes, low));
        const i32 second = _mm512_shuffle_epi8(reversed, _mm512_and_si512(_mm512_srli_epi16(bytes, 4), low));
        return _mm512_or_si512(_mm512_slli_epi16(first, 4), second);
    }
};

}  // namespace kq::avx512
