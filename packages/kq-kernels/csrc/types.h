// Plain data shared by the bindings, the drivers and the kernels. Functions here are `static inline`
// because translation units for different instruction sets must not share a linker symbol.
#pragma once

#include <cstdint>
#include <cstring>

namespace kq {

enum class DType { float32, bfloat16, float16, uint8, int8 };

static inline int64_t itemsize(DType dtype) {
    switch (dtype) {
        case DType::float32: return 4;
        case DType::bfloat16:
        case DType::float16: return 2;
        case DType::uint8:
        case DType::int8: return 1;
    }
    return 0;
}

static inline const void* advance(const void* p, DType dtype, int64_t elements) {
    return static_cast<const char*>(p) + elements * itemsize(dtype);
}

static inline void* advance(void* p, DType dtype, int64_t elements) {
    return static_cast<char*>(p) + elements * itemsize(dtype);
}

struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};

// A matrix [rows, cols] in row-major order, cut into blocks that never cross a row.
struct Geometry {
    int64_t rows;
    int64_t cols;
    int64_t blocksize;

    // Written so that no sum can overflow, and always inlined for the reason given above.
    [[gnu::always_inline]] int64_t blocks_per_row() const {
        return cols / blocksize + (cols % blocksize != 0);
    }
    [[gnu::always_inline]] int64_t bytes_per_row() const { return cols / 2 + cols % 2; }
    [[gnu::always_inline]] int64_t blocks() const { return rows * blocks_per_row(); }
};

// Where the scale of a block comes from: float32 values, or 8-bit codes of a second quantization whose
// blocks hold 256 scales (docs/FORMAT.md). Exactly one of `absmax` and `codes` is set.
struct Scales {
    const float* absmax = nullptr;
    const uint8_t* codes = nullptr;
    const float* nested_absmax = nullptr;
    const float* nested_code = nullptr;
    float offset = 0.0f;
    // Blocks before the first of this matrix, where it is part of a larger tensor: nested blocks are counted
    // from that tensor's first scale.
    int64_t first_block = 0;
};

static inline float scale_of_block(const Scales& s, int64_t block) {
    block += s.first_block;
    if (s.absmax != nullptr) return s.absmax[block];
    const float scaled = s.nested_code[s.codes[block]] * s.nested_absmax[block >> 8];
    return scaled + s.offset;
}

static inline float float_from_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// Block maxima are compared as integers: the order of magnitudes is the order of their bits, and a NaN
// is above infinity, so one integer maximum also answers "is there a NaN, else an infinity".
constexpr uint32_t kInfinityBits = 0x7f800000u;
constexpr uint32_t kQuietNanBits = 0x7fc00000u;

static inline float absmax_from_bits(uint32_t bits) {
    return float_from_bits(bits > kInfinityBits ? kQuietNanBits : bits);
}

}  // namespace kq
