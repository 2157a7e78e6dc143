// One-lane "vectors" in portable C++: the meaning of the interface that avx2.h and avx512.h implement.
//
//   W            lanes of a vector
//   f32, i32     W float32 values, W int32 values
//   load_n       loads n < W values, the other lanes are zero
//   Table16      16 values to look up
#pragma once

#include <cmath>

#include "types.h"

#define KQ_ISA scalar

namespace kq::scalar {

constexpr int W = 1;
// Rows of x in a tile of a matrix product: as many as keep all accumulators, 2 W wide, in registers.
constexpr int TILE = 4;
constexpr int PAIR_TILE = 0;
// Rows of W that a product with few rows of x reads side by side.
constexpr int FEW_GROUP = 1;

using f32 = float;
using i32 = int32_t;

static inline f32 set1(float v) { return v; }
static inline f32 add(f32 a, f32 b) { return a + b; }
static inline f32 sub(f32 a, f32 b) { return a - b; }
static inline f32 mul(f32 a, f32 b) { return a * b; }
static inline f32 div(f32 a, f32 b) { return a / b; }
static inline f32 sqrt(f32 a) { return std::sqrt(a); }
// Two roundings: the C++ fma without hardware support is a slow library call.
static inline f32 fma(f32 a, f32 b, f32 c) { return a * b + c; }
static inline f32 keep_first(f32 v, int n) { return n > 0 ? v : 0.0f; }
static inline f32 sums(const f32 (&v)[FEW_GROUP]) { return v[0]; }  // lane i has the sum of v[i]
// Of two values, the second if one is NaN.
static inline f32 max(f32 a, f32 b) { return a > b ? a : b; }
// -1, 0 or 1; NaN for NaN.
static inline f32 sign(f32 a) { return a > 0.0f ? 1.0f : a < 0.0f ? -1.0f : a; }

static inline float to_float(float v) { return v; }
static inline float to_float(bf16 v) { return float_from_bits(uint32_t{v.bits} << 16); }
static inline float to_float(f16 v) {
    const uint32_t sign = uint32_t{v.bits & 0x8000u} << 16;
    const uint32_t magnitude = v.bits & 0x7fffu;
    if (magnitude >= 0x7c00u) return float_from_bits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    // Scaling by 2^112 moves the exponent bias from 15 to 127 and normalizes subnormal numbers.
    const float value = float_from_bits(magnitude << 13) * float_from_bits(0x77800000u);
    return float_from_bits(sign | bits_of(value));
}

static inline void from_float(float* p, float v) { *p = v; }
static inline void from_float(bf16* p, float v) {
    const uint32_t bits = bits_of(v);
    if (v != v) {
        p->bits = static_cast<uint16_t>(bits >> 16 | 0x40u);
        return;
    }
    p->bits = static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
static inline void from_float(f16* p, float v) {
    const uint32_t bits = bits_of(v);
    const uint32_t sign = bits >> 16 & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    uint32_t half;
    if (magnitude > 0x7f800000u) {
        half = 0x7e00u;
    } else if (magnitude >= 0x477ff000u) {  // rounds to 2^16 or more: infinity
        half = 0x7c00u;
    } else if (magnitude < 0x38800000u) {  // below 2^-14: the addition rounds to a multiple of 2^-24
        half = bits_of(float_from_bits(magnitude) + 0.5f) - bits_of(0.5f);
    } else {
        half = (magnitude + 0xfffu + (magnitude >> 13 & 1u) - 0x38000000u) >> 13;
    }
    p->bits = static_cast<uint16_t>(sign | half);
}

template <class T>
static inline f32 load(const T* p) {
    return to_float(*p);
}
template <class T>
static inline f32 load_n(const T*, int) {
    return 0.0f;  // n < W = 1
}
template <class T>
static inline void store(T* p, f32 v) {
    from_float(p, v);
}
template <class T>
static inline void store_n(T*, f32, int) {}

// The largest magnitude, as float32 bits, of what update() is shown, kLanes values at a time.
template <class T>
struct AbsMax {
    static constexpr int kLanes = 1;
    uint32_t bits = 0;
    void update(f32 v) {
        const uint32_t b = bits_of(v) & 0x7fffffffu;
        bits = b > bits ? b : bits;
    }
    void update(const T* p) { update(to_float(*p)); }
    uint32_t value() const { return bits; }
};

struct Table16 {
    const float* t;
    explicit Table16(const float* table) : t(table) {}
    f32 operator[](i32 index) const { return t[index & 15]; }
};

// The 16 values times a scale, rounded to T: decodes kCodes packed codes at a time.
template <class T>
struct Decoder16 {
    static constexpr int kCodes = 2;
    T values[16];
    Decoder16(const Table16& table, f32 scale) {
        for (int i = 0; i < 16; ++i) from_float(values + i, table.t[i] * scale);
    }
    void operator()(const uint8_t* codes, T* out) const {
        out[0] = values[*codes >> 4];
        out[1] = values[*codes & 15];
    }
};

struct Table256 {
    const float* t;
    explicit Table256(const float* table) : t(table) {}
    f32 operator[](i32 index) const { return t[index]; }
};
static inline i32 load_u8(const uint8_t* p) { return *p; }
static inline i32 load_u8_n(const uint8_t*, int) { return 0; }

// W bytes are 2W codes, the first code of a pair in the high nibble.
static inline void unpack(const uint8_t* p, i32* first, i32* second) {
    *first = *p >> 4;
    *second = *p & 15;
}

static inline f32 as_floats(i32 v) { return float_from_bits(static_cast<uint32_t>(v)); }
static inline i32 as_bits(f32 v) { return static_cast<i32>(bits_of(v)); }
static inline i32 zero_i32() { return 0; }
static inline void transpose(i32 (&)[W]) {}
static inline i32 load_u32(const uint8_t* p) {
    i32 v;
    std::memcpy(&v, p, 4);
    return v;
}
static inline i32 load_u32_n(const uint8_t* p, int bytes) {
    i32 v = 0;
    std::memcpy(&v, p, static_cast<size_t>(bytes));
    return v;
}
template <int N>
static inline i32 shift_right(i32 v) {
    return static_cast<i32>(static_cast<uint32_t>(v) >> N);
}
// The scales of 8 W weights from column `col` on: lane i has that of weight col + 8 i. May load 16 scales.
struct SpreadScales {
    int64_t blocksize;
    explicit SpreadScales(int64_t size) : blocksize(size) {}
    f32 operator()(const float* scales, int64_t col) const { return scales[col / blocksize]; }
};
static inline void prefetch(const void*) {}     // to the level-1 cache
static inline void prefetch_l2(const void*) {}  // to the level-2 cache

}  // namespace kq::scalar
