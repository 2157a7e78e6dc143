// A model of the tiles, after the operation sections of the Intel 64 and IA-32 Architectures Software
// Developer's Manual (LDTILECFG, TILELOADD, TDPBF16PS, TDPBSSD, VCVTNE2PS2BF16). What the processor answers
// with a fault ends the process here, too.
#pragma once

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "types.h"

namespace kq::amx::tile {

struct Registers {
    bool configured = false;
    Config config;
    uint8_t bytes[8][kRows][kRowBytes];
};
static thread_local Registers registers;

static inline void require(bool condition) {
    if (!condition) std::abort();
}

static inline void configure(const Config& config) {
    require(config.palette == 1 && config.start_row == 0);
    for (const uint8_t byte : config.reserved) require(byte == 0);
    for (int i = 0; i < 16; ++i) {
        require((config.rows[i] == 0) == (config.row_bytes[i] == 0));
        require(i < 8 ? config.rows[i] <= kRows && config.row_bytes[i] <= kRowBytes : config.rows[i] == 0);
    }
    std::memset(registers.bytes, 0, sizeof registers.bytes);
    registers.config = config;
    registers.configured = true;
}

static inline void release() { registers.configured = false; }

static inline void require_shape(int t) { require(registers.configured && registers.config.rows[t] != 0); }

template <int T>
static inline void zero() {
    require_shape(T);
    std::memset(registers.bytes[T], 0, sizeof registers.bytes[T]);
}

template <int T>
static inline void load(const void* p, int64_t stride) {
    zero<T>();
    for (int row = 0; row < registers.config.rows[T]; ++row) {
        const char* from = static_cast<const char*>(p) + row * stride;
        std::memcpy(registers.bytes[T][row], from, registers.config.row_bytes[T]);
    }
}

template <int T>
static inline void store(void* p, int64_t stride) {
    require_shape(T);
    for (int row = 0; row < registers.config.rows[T]; ++row) {
        char* to = static_cast<char*>(p) + row * stride;
        std::memcpy(to, registers.bytes[T][row], registers.config.row_bytes[T]);
    }
}

static inline float flush(float value) {
    const uint32_t bits = bits_of(value);
    return (bits & 0x7f800000u) == 0 ? float_from_bits(bits & 0x80000000u) : value;
}
static inline float add(float a, float b) { return flush(flush(a) + flush(b)); }
static inline float add_product(float a, float b, float c) {
    return flush(std::fma(flush(a), flush(b), flush(c)));
}
// Half 0 or 1 of a pair of bfloat16 numbers.
static inline float half(uint32_t pair, int which) {
    return float_from_bits(which == 0 ? pair << 16 : pair & 0xffff0000u);
}

constexpr int kWords = kRowBytes / 4;  // of a row

// Of a product, in words: rows of A, words of a row of A, words of a row of B.
struct Shape {
    int rows, depth, columns;
};

template <int C, int A, int B>
static inline Shape shape_of_product() {
    require_shape(C);
    require_shape(A);
    require_shape(B);
    const Config& config = registers.config;
    const Shape shape{config.rows[A], config.row_bytes[A] / 4, config.row_bytes[B] / 4};
    require(config.rows[C] == shape.rows && config.rows[B] == shape.depth);
    require(config.row_bytes[C] == 4 * shape.columns);
    return shape;
}

template <int C, int A, int B>
static inline void multiply_bf16() {
    const Shape shape = shape_of_product<C, A, B>();
    for (int m = 0; m < shape.rows; ++m) {
        // Even and odd terms have sums of their own, which are added to C at the end.
        float even[kWords] = {}, odd[kWords] = {}, sums[kWords];
        for (int k = 0; k < shape.depth; ++k) {
            uint32_t a, b[kWords];
            std::memcpy(&a, registers.bytes[A][m] + 4 * k, sizeof a);
            std::memcpy(b, registers.bytes[B][k], sizeof b);
            for (int n = 0; n < kWords; ++n) {
                even[n] = add_product(half(a, 0), half(b[n], 0), even[n]);
                odd[n] = add_product(half(a, 1), half(b[n], 1), odd[n]);
            }
        }
        std::memcpy(sums, registers.bytes[C][m], sizeof sums);
        for (int n = 0; n < shape.columns; ++n) sums[n] = add(sums[n], add(even[n], odd[n]));
        std::memcpy(registers.bytes[C][m], sums, sizeof sums);
    }
}

// Byte i of a word.
static inline int32_t signed_byte(uint32_t word, int i) { return static_cast<int8_t>(word >> 8 * i & 0xff); }

template <int C, int A, int B>
static inline void multiply_int8() {
    const Shape shape = shape_of_product<C, A, B>();
    for (int m = 0; m < shape.rows; ++m) {
        uint32_t sums[kWords];
        std::memcpy(sums, registers.bytes[C][m], sizeof sums);
        for (int k = 0; k < shape.depth; ++k) {
            uint32_t a, b[kWords];
            std::memcpy(&a, registers.bytes[A][m] + 4 * k, sizeof a);
            std::memcpy(b, registers.bytes[B][k], sizeof b);
            for (int n = 0; n < shape.columns; ++n) {
                for (int i = 0; i < 4; ++i) {
                    sums[n] += static_cast<uint32_t>(signed_byte(a, i) * signed_byte(b[n], i));
                }
            }
        }
        std::memcpy(registers.bytes[C][m], sums, sizeof sums);
    }
}

static inline __m512i round_pair(__m512 a, __m512 b) {
    float values[32];
    uint16_t rounded[32];
    _mm512_storeu_ps(values, a);
    _mm512_storeu_ps(values + 16, b);
    for (int i = 0; i < 32; ++i) {
        const uint32_t bits = bits_of(flush(values[i]));
        const bool nan = (bits & 0x7fffffffu) > kInfinityBits;
        rounded[i] = static_cast<uint16_t>((nan ? bits | 0x400000u : bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
    return _mm512_loadu_si512(rounded);
}

}  // namespace kq::amx::tile
