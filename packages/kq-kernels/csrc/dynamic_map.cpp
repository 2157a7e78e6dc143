#include "dynamic_map.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

namespace kq {
namespace {

int index_of(float distance) { return std::bit_cast<uint32_t>(distance) >> 23 & 15; }

// What fma(slope, distance, base) gives. False if the sum is not exact in float64, so that it may not tell.
bool fused(float slope, float distance, float base, float* out) {
    const double product = static_cast<double>(slope) * distance;
    const double sum = product + base;
    *out = static_cast<float>(sum);
    return sum - product == base && sum - base == product;
}

struct Point {
    float distance, value;
};

// How far the values lie above the affine function, in units in the last place: 0 to 15 for all of them.
bool fits(const std::vector<Point>& points, float slope, float base) {
    for (const Point& p : points) {
        float found;
        if (!fused(slope, p.distance, base, &found)) return false;
        const int64_t delta = int64_t{std::bit_cast<int32_t>(p.value)} - std::bit_cast<int32_t>(found);
        if (delta < 0 || delta > 15) return false;
    }
    return true;
}

float moved(float value, int units) {
    for (; units > 0; --units) value = std::nextafter(value, INFINITY);
    for (; units < 0; ++units) value = std::nextafter(value, -INFINITY);
    return value;
}

// Tries the float32 functions around the line through the first and the last point.
bool fit(const std::vector<Point>& points, float* slope, float* base) {
    const Point &first = points.front(), &last = points.back();
    double steepness = 0;
    if (points.size() > 1) {
        steepness = (double{last.value} - first.value) / (double{last.distance} - first.distance);
    }
    for (int turn = 0; turn <= 16; ++turn) {
        *slope = moved(static_cast<float>(steepness), turn % 2 ? (turn + 1) / 2 : -turn / 2);
        double lowest = std::numeric_limits<double>::infinity();
        for (const Point& p : points) lowest = std::min(lowest, p.value - double{*slope} * p.distance);
        for (int down = -1; down <= 4; ++down) {
            *base = moved(static_cast<float>(lowest), -down);
            if (fits(points, *slope, *base)) return true;
        }
    }
    return false;
}

bool fit_decoder(const float* values, DynamicMap* map) {
    std::vector<Point> segments[16];
    for (int code = map->negatives ? 127 : 0; code < 256; ++code) {
        const float distance = distance_from_zero(code, map->negatives);
        segments[index_of(distance)].push_back({distance, values[code]});
    }
    for (int i = 0; i < 16; ++i) {
        map->slope[i] = map->base[i] = 0;
        if (!segments[i].empty() && !fit(segments[i], map->slope + i, map->base + i)) return false;
    }
    std::fill(map->deltas, map->deltas + 32, 0);
    for (int code = 0; code < 256; ++code) {
        const float distance = distance_from_zero(code, map->negatives);
        const int i = index_of(distance);
        float found;
        fused(map->slope[i], distance, map->base[i], &found);
        const uint32_t delta =
            std::bit_cast<uint32_t>(std::fabs(values[code])) - std::bit_cast<uint32_t>(found);
        map->deltas[code % 32] |= std::rotl(delta, code / 8);
    }
    return true;
}

// The error of a rank in units: that of the affine function at a threshold, the two roundings of the ratio
// (one of the reciprocal, one of the product), and half a unit of the sum.
double rank_error(double threshold, int rank, float slope, float base) {
    const double exact = (static_cast<double>(rank) * kRankUnits) + kRankMagic + kRankSlack;
    return std::fabs(double{slope} * threshold + base - exact) + double{slope} * threshold * 0x1p-23 + 0.5;
}

// Thresholds begin[0], ... end[-1] are those above the ranks first, first + 1, ...
bool fit_segment(const double* begin, const double* end, int first, int i, DynamicMap* map) {
    const double count = static_cast<double>(end - begin), lowest = i == 0 ? 0.0 : map->borders[i - 1];
    double slope = 0, base = first + 0.5;
    if (count > 0) {
        slope = count == 1 ? 0.5 / (*begin - lowest) : (count - 1) / (end[-1] - *begin);
        base = first + 1 - slope * *begin;
    }
    map->rank_slope[i] = static_cast<float>(slope * kRankUnits);
    map->rank_base[i] = static_cast<float>(base * kRankUnits + kRankMagic + kRankSlack);
    map->rank_top[i] = static_cast<float>((first + count + 0.75) * kRankUnits + kRankMagic);
    for (const double* t = begin; t < end; ++t) {
        const int rank = first + 1 + static_cast<int>(t - begin);
        if (!(rank_error(*t, rank, map->rank_slope[i], map->rank_base[i]) < kRankSlack)) return false;
    }
    // Just above its border a magnitude must get the first rank, and must not seem uncertain for ever.
    const double start = double{map->rank_slope[i]} * lowest + map->rank_base[i] - kRankMagic;
    return start > (first + 0.01) * kRankUnits && start < (first + 0.99) * kRankUnits;
}

// The estimate of a segment, before it is rounded and without the magic number.
double estimate(const DynamicMap& map, double magnitude) {
    const float bits = static_cast<float>(std::bit_cast<int32_t>(static_cast<float>(magnitude)));
    return double{bits} * map.log_scale + (double{map.log_base} - kLogMagic);
}

bool fit_estimate(DynamicMap* map) {
    const auto bits = [](double v) { return double(std::bit_cast<int32_t>(static_cast<float>(v))); };
    const double first = bits(map->borders[0]), last = bits(map->borders[6]);
    if (!(first < last)) return false;
    // The magic number leaves no room for a fraction: the scale is such that the base is an integer.
    const double base = std::round(first * 6 / (last - first));
    map->log_scale = static_cast<float>(base / first);
    map->log_base = static_cast<float>(kLogMagic - base);
    // Rounded to i on both sides of border i, it is too low by one above it, and right below it.
    for (int i = 0; i < 7; ++i) {
        const double e = estimate(*map, map->borders[i]);
        if (!(e > i - 0.4 && e < i + 0.4)) return false;
    }
    return true;
}

// Of a number that is not 0, up to 53.
int significant_bits(double v) {
    const uint64_t mantissa = (std::bit_cast<uint64_t>(v) & ((uint64_t{1} << 52) - 1)) | uint64_t{1} << 52;
    return 53 - std::countr_zero(mantissa);
}

bool fit_encoder(const float* values, DynamicMap* map) {
    // The first ranks of the segments, in which neighbors are equally far apart.
    const int zero = map->negatives ? 127 : 0, ranks = 256 - zero;
    std::vector<double> thresholds;
    for (int rank = 0; rank + 1 < ranks; ++rank) {
        thresholds.push_back((double{values[zero + rank]} + values[zero + rank + 1]) / 2);
    }
    const int width = map->negatives ? 2 : 4, offset = map->negatives ? 0 : 1;
    const auto start = [&](int i) { return i == 0 ? 0 : (width << (i - 1)) - offset; };
    for (int i = 0; i < 7; ++i) map->borders[i] = thresholds[start(i + 1) - 1];
    // A product has at least as many significant bits as its factors together, less one.
    map->tie_bits = 0;
    for (int i = 0; i < 7; ++i)
        map->tie_bits = std::max(map->tie_bits, 25 - significant_bits(map->borders[i]));
    map->borders[7] = std::numeric_limits<double>::infinity();
    for (int i = 0; i < 8; ++i) {
        const int stop = i < 7 ? start(i + 1) - 1 : start(i);
        if (!fit_segment(thresholds.data() + start(i), thresholds.data() + stop, start(i), i, map))
            return false;
    }
    for (int i = 8; i < 16; ++i) {
        map->rank_slope[i] = map->rank_slope[i - 8];
        map->rank_base[i] = map->rank_base[i - 8];
        map->rank_top[i] = map->rank_top[i - 8];
    }
    return fit_estimate(map);
}

bool is_symmetric(const float* values) {
    for (int i = 1; i < 128; ++i) {
        if (values[127 + i] != -values[127 - i]) return false;
    }
    return true;
}

}  // namespace

DynamicMap dynamic_map(const float* values) {
    DynamicMap map;
    map.negatives = values[0] < 0;
    const int zero = map.negatives ? 127 : 0;
    const bool plausible = std::bit_cast<uint32_t>(values[zero]) == 0 && values[255] == 1.0f &&
                           std::adjacent_find(values, values + 256) == values + 256 &&
                           (!map.negatives || is_symmetric(values));
    map.regular = plausible && fit_decoder(values, &map) && fit_encoder(values, &map);
    return map;
}

}  // namespace kq
