// Driving a product with many rows of x: packing, passes of rows, threads and their scratch memory.
#pragma once

#include <algorithm>

#include "kernels/kernels.h"
#include "parallel.h"
#include "scratch.h"

namespace kq {

constexpr int64_t kWeightsPerThread = 32768;  // below, starting a thread costs more than it saves
constexpr int64_t kMaxRows = 512;       // their sums fit the level-2 cache; decoding is amortized by then
constexpr int64_t kFloatsPerLine = 16;  // no two threads' scratch shares a cache line

inline int64_t ceil_div(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }
inline int64_t round_up(int64_t value, int64_t multiple) { return ceil_div(value, multiple) * multiple; }

struct RowsProblem {
    const void* x;  // [m, depth] of dtype
    int64_t row_stride;
    DType dtype;
    int64_t m, depth, outputs;
    void* out;  // [m, outputs] of dtype
    bool transposed;
    int threads;
};

// Calls call(row, rows) for passes of nearly equal size, at most kMaxRows.
template <class Call>
void for_passes(int64_t m, Call call) {
    const int64_t passes = ceil_div(m, kMaxRows);
    for (int64_t pass = 0; pass < passes; ++pass) {
        const int64_t row = m * pass / passes;
        call(row, m * (pass + 1) / passes - row);
    }
}
inline int64_t most_rows(int64_t m) { return m == 0 ? 0 : ceil_div(m, ceil_div(m, kMaxRows)); }

// Some rows of x, packed.
struct RowsPass {
    const float* x;
    int64_t m;
    void* out;
};

// Calls multiply(pass, begin, end, scratch) for ranges of outputs.
template <class Multiply>
void many_rows(const RowsProblem& p, const ManyKernels& kernels, Multiply multiply) {
    const int64_t most = most_rows(p.m);
    const int threads = thread_count(p.depth * p.outputs, kWeightsPerThread, p.threads);
    const int64_t packed = round_up(kernels.packed(most, p.depth), kFloatsPerLine);
    const int64_t per_thread = round_up(kernels.scratch(most), kFloatsPerLine);
    float* x = scratch_floats(packed + threads * per_thread);
    for_passes(p.m, [&](int64_t row, int64_t rows) {
        const PackArgs pack{
            advance(p.x, p.dtype, row * p.row_stride), p.row_stride, p.dtype, rows, p.depth, x, p.transposed};
        parallel_ranges(ceil_div(p.depth, kPackUnit), threads, [&](int64_t begin, int64_t end, int) {
            kernels.pack(pack, begin * kPackUnit, std::min(end * kPackUnit, p.depth));
        });
        const RowsPass pass{x, rows, advance(p.out, p.dtype, row * p.outputs)};
        parallel_ranges(ceil_div(p.outputs, kOutputUnit), threads,
                        [&](int64_t begin, int64_t end, int thread) {
                            multiply(pass, begin * kOutputUnit, std::min(end * kOutputUnit, p.outputs),
                                     x + packed + thread * per_thread);
                        });
    });
}

}  // namespace kq
