// Rows of small codes as vectors of 32-bit words.
#pragma once

#include "types.h"

namespace kq::KQ_ISA {

// Words of a row of `bytes` bytes, from byte `byte` on; what lies behind the row is zero.
static inline i32 load_row_words(const void* row, int64_t bytes, int64_t byte) {
    const uint8_t* p = static_cast<const uint8_t*>(row) + byte;
    if (byte + 4 * W <= bytes) return load_u32(p);
    return byte < bytes ? load_u32_n(p, static_cast<int>(bytes - byte)) : zero_i32();
}

}  // namespace kq::KQ_ISA
