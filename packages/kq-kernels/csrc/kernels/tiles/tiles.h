// The tile registers of AMX and the few operations that kernels use. There are two implementations: the
// processor's instructions, and a model of them in plain C++ (the build option KQ_AMX_MODEL) with which the
// kernels can be tested on a processor that has no tiles. A register is named by a template argument.
//
//   configure(config)   gives the registers their shapes; before that, none may be used
//   release()           puts them back into their initial state
//   zero<T>()
//   load<T>(p, stride)  rows from memory; `stride` is the distance of rows in bytes
//   store<T>(p, stride)
//   multiply_bf16<C, A, B>()
//                       C[m, n] += the sum over k of A[m, k] * B[k, n], bfloat16 into float32. Rows of B are
//                       stored in pairs: row p of the register holds B[2p, n], B[2p + 1, n] for n = 0, 1, ...
//   multiply_int8<C, A, B>()
//                       the same, signed bytes into int32, which wraps around. Rows of B are stored in fours.
//   round_pair(a, b)    32 bfloat16 numbers: those of a, then those of b, rounded to nearest, ties to even
//
// All arithmetic with bfloat16 takes subnormal numbers as zero, of inputs and of results.
#pragma once

#include <cstdint>

namespace kq::amx::tile {

constexpr int kRows = 16;
constexpr int kRowBytes = 64;

// The operand of LDTILECFG.
struct alignas(64) Config {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
};
static_assert(sizeof(Config) == 64);

}  // namespace kq::amx::tile

#if KQ_AMX_MODEL
#include "kernels/tiles/model.h"
#else
#include "kernels/tiles/processor.h"
#endif

namespace kq::amx::tile {

// All eight registers in their full size, for as long as this object lives. Others in the process, such as
// torch's matrix products, configure tiles for themselves, so nothing is left configured.
class Scope {
  public:
    Scope() {
        Config config;
        for (int i = 0; i < 8; ++i) {
            config.row_bytes[i] = kRowBytes;
            config.rows[i] = kRows;
        }
        configure(config);
    }
    ~Scope() { release(); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
};

}  // namespace kq::amx::tile
