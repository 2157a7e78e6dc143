// The structure of the 8-bit dynamic maps, by which vectors decode and encode with arithmetic and small
// tables: a rank (the number of a magnitude, from zero up) is nearly an affine function of the magnitude in
// each decade.
#pragma once

#include <cstdint>
#include <cstring>

namespace kq {

// The argument of the affine functions that decode: how far a code is from that of zero.
// Signed: |code - 127|, and 1/2 for zero; unsigned: code + 1.
static inline float distance_from_zero(int code, bool negatives) {
    if (!negatives) return static_cast<float>(code + 1);
    if (code == 127) return 0.5f;
    return static_cast<float>(code > 127 ? code - 127 : 127 - code);
}

struct DynamicMap {
    // Whether the map has this structure. Otherwise the rest is not set.
    bool regular = false;
    bool negatives;  // the values of codes below 127 are those of the codes above it, negated

    // The magnitude of a code with the distance d is base[i] + slope[i] * d, rounded once, and then moved up
    // by 0 to 15 units in the last place; i is the exponent of d, 4 bits of it. Eight of these distances have
    // their places in deltas[code % 32], rotated so that after turning it right by code / 8 bits, the
    // lowest four are those of the code.
    alignas(64) float slope[16];
    alignas(64) float base[16];
    alignas(64) uint32_t deltas[32];

    // Segments of magnitudes relative to the largest. A magnitude above borders[i] is in segment i + 1 or
    // higher; the last is infinite. The estimate of a segment is float(bits of the magnitude) * log_scale +
    // log_base, which kLogMagic in the base rounds to an integer, and at least 0; it is right or one too low.
    double borders[8];
    float log_scale, log_base;
    // A magnitude can lie on a border, where the nearest code depends on its sign, only if the largest
    // magnitude has this many significant bits or fewer: otherwise the border is no float32 number.
    int tie_bits;
    // In segment i, the rank, kRankUnits to each, is rank_base[i] + rank_slope[i] * magnitude, and at most
    // rank_top[i]. The base contains kRankMagic, which rounds to an integer, and kRankSlack: only if the
    // lowest bits say that a rank begins within 2 kRankSlack units is the rank uncertain.
    alignas(64) float rank_slope[16];
    alignas(64) float rank_base[16];
    alignas(64) float rank_top[16];
};

constexpr int kRankShift = 15;
constexpr int kRankUnits = 1 << kRankShift;
constexpr int kRankSlack = 4;
constexpr uint32_t kRankCertain =
    kRankUnits - 2 * kRankSlack;  // bits of which one is set if a rank is certain
constexpr float kRankMagic = 0x1p23f;

constexpr float kLogMagic = 0x1.8p23f;

// Whether ranks are to be had for this scale: its reciprocal and its products with the borders are normal
// numbers, and there are no ties.
static inline bool has_ranks(const DynamicMap& map, float scale) {
    if (!map.regular || !(scale >= 0x1p-90f && scale <= 0x1p120f)) return false;
    uint32_t bits;
    std::memcpy(&bits, &scale, sizeof bits);
    return !map.negatives || 24 - __builtin_ctz(bits | 1u << 23) > map.tie_bits;
}

// `values`: 256 finite numbers in ascending order.
DynamicMap dynamic_map(const float* values);

}  // namespace kq
