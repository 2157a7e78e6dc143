// Encoding with AVX2. The interface is explained in scalar_codes.h.
#pragma once

#include "codebooks.h"
#include "kernels/vec/avx2.h"

namespace kq::avx2 {

static inline f32 products_down(const double* t, double s) {
    const __m256d scale = _mm256_set1_pd(s);
    const __m256d a = _mm256_mul_pd(_mm256_loadu_pd(t), scale);
    const __m256d b = _mm256_mul_pd(_mm256_loadu_pd(t + 4), scale);
    const __m128 near_a = _mm256_cvtpd_ps(a), near_b = _mm256_cvtpd_ps(b);
    // Where rounding went up, take the float below: one less in magnitude if positive, one more if
    // negative (a negative product that was rounded to -0 becomes the smallest negative number).
    const __m256d up_a = _mm256_cmp_pd(_mm256_cvtps_pd(near_a), a, _CMP_GT_OQ);
    const __m256d up_b = _mm256_cmp_pd(_mm256_cvtps_pd(near_b), b, _CMP_GT_OQ);
    const __m256 up = _mm256_shuffle_ps(_mm256_castpd_ps(up_a), _mm256_castpd_ps(up_b), 0x88);
    const i32 moved = _mm256_permute4x64_epi64(_mm256_castps_si256(up), 0xd8);
    const i32 bits = _mm256_castps_si256(_mm256_set_m128(near_b, near_a));
    const i32 direction = _mm256_or_si256(_mm256_srai_epi32(bits, 31), _mm256_set1_epi32(1));
    return _mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_and_si256(moved, direction)));
}

// Packing four vectors to bytes works within halves and leaves four bytes of each vector in each.
static inline i32 pack_bytes(i32 a, i32 b, i32 c, i32 d) {
    const i32 order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const i32 bytes = _mm256_packus_epi16(_mm256_packus_epi32(a, b), _mm256_packus_epi32(c, d));
    return _mm256_permutevar8x32_epi32(bytes, order);
}

static inline f32 above(f32 x, f32 threshold) { return _mm256_cmp_ps(x, threshold, _CMP_GT_OQ); }

template <bool kRegular>
struct Search16 {
    static constexpr float kSmallestScale = 0x1p-149f;
    f32 top, leaves, root;  // nodes 1 to 7 (0 is unused) and 8 to 15; a permutation uses three bits of a node
    Table16 code_of_rank;
    Search16(const Codebook4& book, float scale)
        : top(products_down(book.tree, scale)),
          leaves(products_down(book.tree + 8, scale)),
          root(_mm256_permutevar8x32_ps(top, _mm256_set1_epi32(1))),
          code_of_rank(reinterpret_cast<const float*>(book.code_of_rank)) {}
    i32 operator()(f32 x) const {
        i32 node = _mm256_sub_epi32(_mm256_set1_epi32(2), _mm256_castps_si256(above(x, root)));
        node = descend(x, top, node);
        node = descend(x, top, node);
        node = descend(x, leaves, node);
        // The codes of a regular codebook are its ranks, 16 below the node.
        if (kRegular) return _mm256_and_si256(node, _mm256_set1_epi32(15));
        return _mm256_castps_si256(code_of_rank[node]);
    }
    static i32 descend(f32 x, f32 tree, i32 node) {
        // A true comparison is -1 in every lane.
        const f32 k = above(x, _mm256_permutevar8x32_ps(tree, node));
        return _mm256_sub_epi32(_mm256_add_epi32(node, node), _mm256_castps_si256(k));
    }
};

constexpr int kGroup = 4 * W;

template <class Search, class T>
static inline void encode_group(const Search& code_of, const T* x, uint8_t* codes) {
    const i32 bytes = pack_bytes(code_of(load(x)), code_of(load(x + W)), code_of(load(x + 2 * W)),
                                 code_of(load(x + 3 * W)));
    const i32 pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi16(0x0110));
    const __m128i low = _mm256_castsi256_si128(pairs), high = _mm256_extracti128_si256(pairs, 1);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm_packus_epi16(low, high));
}

// A level of the tree has its thresholds in the order of the path that leads to them, the first decision in
// the lowest bit, so that look-ups by the first three decisions serve three levels.
struct Search256 {
    static constexpr int kCodes = 4 * W;
    alignas(32) float tree[256];
    Search256(const Codebook8& book, float scale) {
        for (int i = 0; i < 256; i += W) store(tree + i, products_down(book.tree + i, scale));
    }

    template <class T>
    void operator()(const T* x, uint8_t* codes) const {
        const f32 v[4] = {load(x), load(x + W), load(x + 2 * W), load(x + 3 * W)};
        i32 path[4];
        first_six(v, path);
        // Level by level for all vectors, because the processor looks ahead by about two paths only.
        for (int i = 0; i < 4; ++i) {
            path[i] = take(path[i], above(v[i], look_up(tree + 64, path[i])), 64);
        }
        for (int i = 0; i < 4; ++i) {
            path[i] = take(path[i], above(v[i], look_up(tree + 128, path[i])), 128);
        }
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes),
                            reverse_bits(pack_bytes(path[0], path[1], path[2], path[3])));
    }

  private:
    static i32 take(i32 path, f32 k, int32_t bit) {
        return _mm256_or_si256(path, _mm256_and_si256(_mm256_castps_si256(k), _mm256_set1_epi32(bit)));
    }
    f32 permuted(int start, i32 path) const { return _mm256_permutevar8x32_ps(load(tree + start), path); }
    f32 chosen(int start, i32 path, f32 k3) const {
        return _mm256_blendv_ps(permuted(start, path), permuted(start + 8, path), k3);
    }

    void first_six(const f32 (&v)[4], i32 (&path)[4]) const {
        const f32 root = set1(tree[1]), below = set1(tree[2]), above_root = set1(tree[3]);
        for (int i = 0; i < 4; ++i) {
            const f32 k0 = above(v[i], root);
            const f32 k1 = above(v[i], _mm256_blendv_ps(below, above_root, k0));
            path[i] = take(take(_mm256_setzero_si256(), k0, 1), k1, 2);
        }
        for (int i = 0; i < 4; ++i) path[i] = take(path[i], above(v[i], permuted(4, path[i])), 4);
        for (int i = 0; i < 4; ++i) {
            const f32 k3 = above(v[i], permuted(8, path[i]));
            const f32 k4 = above(v[i], chosen(16, path[i], k3));
            const f32 k5 =
                above(v[i], _mm256_blendv_ps(chosen(32, path[i], k3), chosen(48, path[i], k3), k4));
            path[i] = take(take(take(path[i], k3, 8), k4, 16), k5, 32);
        }
    }

    static i32 reverse_bits(i32 bytes) {
        const i32 low = _mm256_set1_epi8(15);
        const i32 reversed =
            _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15));
        const i32 first = _mm256_shuffle_epi8(reversed, _mm256_and_si256(bytes, low));
        const i32 second = _mm256_shuffle_epi8(reversed, _mm256_and_si256(_mm256_srli_epi16(bytes, 4), low));
        return _mm256_or_si256(_mm256_slli_epi16(first, 4), second);
    }
};

}  // namespace kq::avx2
