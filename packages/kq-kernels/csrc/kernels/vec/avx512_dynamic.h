// The dynamic maps with AVX-512. The interface is explained in scalar_dynamic.h.
#pragma once

#include "kernels/vec/avx512_codes.h"

namespace kq::avx512 {

template <bool kNegatives>
struct DynamicDecoder {
    f32 slope, base;
    i32 deltas_low, deltas_high;
    explicit DynamicDecoder(const Codebook8& book)
        : slope(load(book.dynamic.slope)),
          base(load(book.dynamic.base)),
          deltas_low(_mm512_load_si512(book.dynamic.deltas)),
          deltas_high(_mm512_load_si512(book.dynamic.deltas + 16)) {}
    [[gnu::always_inline]] f32 operator()(const uint8_t* codes) const {
        const i32 code = load_u8(codes);
        const f32 place = add(_mm512_cvtepi32_ps(code), set1(kNegatives ? -127.0f : 1.0f));
        constexpr int kLargestMagnitude = 0x0b;
        const f32 distance = kNegatives ? _mm512_range_ps(place, set1(0.5f), kLargestMagnitude) : place;
        const i32 index = _mm512_srli_epi32(as_bits(distance), 23);
        const f32 near =
            fma(_mm512_permutexvar_ps(index, slope), distance, _mm512_permutexvar_ps(index, base));
        const i32 packed = _mm512_permutex2var_epi32(deltas_low, code, deltas_high);
        const i32 turned = _mm512_rorv_epi32(packed, _mm512_srli_epi32(code, 3));
        const i32 value = _mm512_add_epi32(as_bits(near), _mm512_and_si512(turned, _mm512_set1_epi32(15)));
        if (!kNegatives) return as_floats(value);
        constexpr int kOrBoth = 0xf8;  // the first operand, or both others
        const i32 sign = _mm512_set1_epi32(INT32_MIN);
        return as_floats(_mm512_ternarylogic_epi32(value, sign, as_bits(place), kOrBoth));
    }
};

template <bool kNegatives>
struct DynamicEncoder {
    static constexpr int kParts = 4;
    static constexpr bool kSpare = true;
    const Codebook8& book;
    float scale;
    f32 inverse, borders, slope, base, top;
    DynamicEncoder(const Codebook8& codebook, float absmax)
        : book(codebook),
          scale(absmax),
          inverse(set1(1.0f / absmax)),
          borders(_mm512_broadcast_f32x8(products_down_8(book.dynamic.borders, absmax))),
          slope(load(book.dynamic.rank_slope)),
          base(load(book.dynamic.rank_base)),
          top(load(book.dynamic.rank_top)) {}

    struct Ranks {
        i32 rank[4];
        __mmask16 uncertain[4];
    };
    [[gnu::always_inline]] void rank(const float* x, int part, Ranks& r) const {
        r.rank[part] = rank_of(load(x), r.uncertain + part);
    }

    [[gnu::always_inline]] void write(const Ranks& r, const float* x, uint8_t* codes) const {
        i32 bytes = bytes_of(r.rank);
        if (kNegatives) {
            const __mmask64 negative =
                joined(sign_of(x), sign_of(x + W), sign_of(x + 2 * W), sign_of(x + 3 * W));
            const i32 zero = _mm512_set1_epi8(127);
            // Saturated, because -1 is not in the map.
            bytes = _mm512_mask_subs_epu8(_mm512_add_epi8(bytes, zero), negative, zero, bytes);
        }
        _mm512_storeu_si512(codes, bytes);
        const __mmask16* u = r.uncertain;
        if (__builtin_expect((u[0] | u[1] | u[2] | u[3]) != 0, 0)) {
            decide(joined(u[0], u[1], u[2], u[3]), x, codes);
        }
    }

  private:
    static __m256 products_down_8(const double* t, double s) {
        constexpr int kDown = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
        return _mm512_cvt_roundpd_ps(_mm512_mul_pd(_mm512_loadu_pd(t), _mm512_set1_pd(s)), kDown);
    }
    static __mmask16 sign_of(const float* x) { return _mm512_movepi32_mask(_mm512_loadu_si512(x)); }
    static __mmask64 joined(__mmask16 a, __mmask16 b, __mmask16 c, __mmask16 d) {
        return _mm512_kunpackd(_mm512_kunpackw(d, c), _mm512_kunpackw(b, a));
    }

    // The rank in the bits from kRankShift on.
    [[gnu::always_inline]] i32 rank_of(f32 x, __mmask16* uncertain) const {
        const DynamicMap& map = book.dynamic;
        const f32 magnitude = kNegatives ? _mm512_abs_ps(x) : x;
        const f32 ratio = mul(magnitude, inverse);
        const f32 bits = _mm512_cvtepi32_ps(as_bits(ratio));
        const f32 log = fma(bits, set1(map.log_scale), set1(map.log_base));
        const i32 estimate = as_bits(_mm512_max_ps(log, set1(kLogMagic)));
        const __mmask16 k = above(magnitude, _mm512_permutexvar_ps(estimate, borders));
        const i32 segment = add_where(estimate, k, 1);
        const f32 rank =
            fma(ratio, _mm512_permutexvar_ps(segment, slope), _mm512_permutexvar_ps(segment, base));
        const i32 limited = as_bits(_mm512_min_ps(rank, _mm512_permutexvar_ps(segment, top)));
        *uncertain = _mm512_testn_epi32_mask(limited, _mm512_set1_epi32(kRankCertain));
        return limited;
    }

    [[gnu::always_inline]] static i32 bytes_of(const i32 (&rank)[4]) {
        constexpr int kChoose = 0xca;  // the first operand's bits choose between the second and the third
        const i32 low =
            _mm512_ternarylogic_epi32(_mm512_set1_epi32(0xff), _mm512_srli_epi32(rank[0], kRankShift),
                                      _mm512_srli_epi32(rank[1], kRankShift - 8), kChoose);
        const i32 high = _mm512_ternarylogic_epi32(_mm512_set1_epi32(0xff0000),
                                                   _mm512_slli_epi32(rank[2], 16 - kRankShift),
                                                   _mm512_slli_epi32(rank[3], 24 - kRankShift), kChoose);
        const i32 mixed = _mm512_ternarylogic_epi32(_mm512_set1_epi32(0xffff), low, high, kChoose);
        // Byte b of word w is element w of vector b.
        const i32 within =
            _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
        const i32 across = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        return _mm512_permutexvar_epi32(across, _mm512_shuffle_epi8(mixed, within));
    }

    [[gnu::noinline]] void decide(__mmask64 uncertain, const float* x, uint8_t* codes) const {
        for (uint64_t left = uncertain; left != 0; left &= left - 1) {
            const int i = __builtin_ctzll(left);
            codes[i] = nearest_code(book, x[i], scale);
        }
    }
};

}  // namespace kq::avx512
