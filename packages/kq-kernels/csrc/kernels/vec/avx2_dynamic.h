// The dynamic maps with AVX2. The interface is explained in scalar_dynamic.h.
#pragma once

#include "kernels/vec/avx2_codes.h"

namespace kq::avx2 {

// Loads by the codes' addresses, which leave the ports of arithmetic to the rest of a step.
template <bool kNegatives>
struct DynamicDecoder {
    const float* values;
    explicit DynamicDecoder(const Codebook8& book) : values(book.values) {}
    [[gnu::always_inline]] f32 operator()(const uint8_t* codes) const {
        const auto at = [&](int lane) { return _mm256_broadcast_ss(values + codes[lane]); };
        const f32 a = _mm256_blend_ps(at(0), at(1), 0x02), b = _mm256_blend_ps(at(2), at(3), 0x08);
        const f32 c = _mm256_blend_ps(at(4), at(5), 0x20), d = _mm256_blend_ps(at(6), at(7), 0x80);
        return _mm256_blend_ps(_mm256_blend_ps(a, b, 0x0c), _mm256_blend_ps(c, d, 0xc0), 0xf0);
    }
};

template <bool kNegatives>
struct DynamicEncoder {
    static constexpr int kParts = 4;
    static constexpr bool kSpare = false;
    const Codebook8& book;
    float scale;
    f32 inverse, borders, slope, base, top;
    DynamicEncoder(const Codebook8& codebook, float absmax)
        : book(codebook),
          scale(absmax),
          inverse(set1(1.0f / absmax)),
          borders(products_down(book.dynamic.borders, absmax)),
          slope(load(book.dynamic.rank_slope)),
          base(load(book.dynamic.rank_base)),
          top(load(book.dynamic.rank_top)) {}

    struct Ranks {
        i32 code[4], uncertain[4];
    };
    [[gnu::always_inline]] void rank(const float* x, int part, Ranks& r) const {
        r.code[part] = code_of(load(x), r.uncertain + part);
    }

    [[gnu::always_inline]] void write(const Ranks& r, const float* x, uint8_t* codes) const {
        const i32 *c = r.code, *u = r.uncertain;
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), pack_bytes(c[0], c[1], c[2], c[3]));
        const i32 any = _mm256_or_si256(_mm256_or_si256(u[0], u[1]), _mm256_or_si256(u[2], u[3]));
        if (__builtin_expect(lanes(any) != 0, 0)) decide(u, x, codes);
    }

  private:
    static int lanes(i32 mask) { return _mm256_movemask_ps(as_floats(mask)); }

    [[gnu::always_inline]] i32 code_of(f32 x, i32* uncertain) const {
        const DynamicMap& map = book.dynamic;
        const i32 all_but_sign = _mm256_set1_epi32(INT32_MAX);
        const f32 magnitude = kNegatives ? as_floats(_mm256_and_si256(as_bits(x), all_but_sign)) : x;
        const f32 ratio = mul(magnitude, inverse);
        const f32 bits = _mm256_cvtepi32_ps(as_bits(ratio));
        const f32 log = fma(bits, set1(map.log_scale), set1(map.log_base));
        const i32 estimate = as_bits(_mm256_max_ps(log, set1(kLogMagic)));
        const f32 k = above(magnitude, _mm256_permutevar8x32_ps(borders, estimate));
        const i32 segment = _mm256_sub_epi32(estimate, as_bits(k));
        const f32 rank =
            fma(ratio, _mm256_permutevar8x32_ps(slope, segment), _mm256_permutevar8x32_ps(base, segment));
        const i32 limited = as_bits(_mm256_min_ps(rank, _mm256_permutevar8x32_ps(top, segment)));
        *uncertain =
            _mm256_cmpeq_epi32(_mm256_and_si256(limited, _mm256_set1_epi32(kRankCertain)), zero_i32());
        const i32 plain = _mm256_and_si256(_mm256_srli_epi32(limited, kRankShift), _mm256_set1_epi32(0xff));
        if (!kNegatives) return plain;
        // 127 + rank or 127 - rank; the latter not below 0, because -1 is not in the map.
        const i32 signed_rank = _mm256_sign_epi32(plain, _mm256_or_si256(as_bits(x), _mm256_set1_epi32(1)));
        return _mm256_max_epi32(_mm256_add_epi32(signed_rank, _mm256_set1_epi32(127)), zero_i32());
    }

    [[gnu::noinline]] void decide(const i32* uncertain, const float* x, uint8_t* codes) const {
        for (int i = 0; i < 4; ++i) {
            for (int left = lanes(uncertain[i]); left != 0; left &= left - 1) {
                const int lane = i * W + __builtin_ctz(static_cast<unsigned>(left));
                codes[lane] = nearest_code(book, x[lane], scale);
            }
        }
    }
};

}  // namespace kq::avx2
