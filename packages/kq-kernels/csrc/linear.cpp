#include "linear.h"

#include <algorithm>

#include "dispatch.h"
#include "parallel.h"
#include "scratch.h"

namespace kq {
namespace {

constexpr int64_t kMaxRows = 512;       // their sums fit the level-2 cache; decoding is amortized by then
constexpr int64_t kFloatsPerLine = 16;  // no two threads' scratch shares a cache line

int64_t ceil_div(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }
int64_t round_up(int64_t value, int64_t multiple) { return ceil_div(value, multiple) * multiple; }

void few(const LinearProblem& p, const FewKernels& kernels) {
    const Geometry& g = p.weight.geometry;
    const int64_t stride = kernels.stride(g.cols);
    const int64_t per_thread = round_up(kernels.scratch(g), kFloatsPerLine);
    const int threads = thread_count(g.rows * g.cols, kWeightsPerThread, p.threads);
    float* x = scratch_floats(kFewRows * stride + threads * per_thread);
    float* scratch = x + kFewRows * stride;
    for (int64_t row = 0; row < p.m; row += kFewRows) {
        const int rows = static_cast<int>(p.m - row < kFewRows ? p.m - row : kFewRows);
        kernels.pack({advance(p.x, p.dtype, row * p.row_stride), p.row_stride, p.dtype, rows, g.cols, x});
        const Linear4FewArgs args{x, rows, p.weight, p.bias, advance(p.out, p.dtype, row * g.rows), p.dtype};
        parallel_ranges(g.rows, threads, [&](int64_t begin, int64_t end, int thread) {
            kernels.multiply(args, begin, end, scratch + thread * per_thread);
        });
    }
}

void many(const LinearProblem& p, const ManyKernels& kernels, bool transposed) {
    const Geometry& g = p.weight.geometry;
    const int64_t depth = transposed ? g.rows : g.cols;
    const int64_t outputs = transposed ? g.cols : g.rows;
    const int64_t passes = ceil_div(p.m, kMaxRows);
    const int64_t most = ceil_div(p.m, passes);
    const int threads = thread_count(g.rows * g.cols, kWeightsPerThread, p.threads);
    const int64_t packed = round_up(kernels.packed(most, depth), kFloatsPerLine);
    const int64_t per_thread = round_up(kernels.scratch(most), kFloatsPerLine);
    float* x = scratch_floats(packed + threads * per_thread);
    for (int64_t pass = 0; pass < passes; ++pass) {
        const int64_t row = p.m * pass / passes;
        const int64_t rows = p.m * (pass + 1) / passes - row;
        const PackArgs pack{
            advance(p.x, p.dtype, row * p.row_stride), p.row_stride, p.dtype, rows, depth, x, transposed};
        parallel_ranges(ceil_div(depth, kPackUnit), threads, [&](int64_t begin, int64_t end, int) {
            kernels.pack(pack, begin * kPackUnit, std::min(end * kPackUnit, depth));
        });
        const Linear4ManyArgs args{
            x, rows, p.weight, transposed, p.bias, advance(p.out, p.dtype, row * outputs), p.dtype};
        parallel_ranges(ceil_div(outputs, kOutputUnit), threads, [&](int64_t begin, int64_t end, int thread) {
            kernels.multiply(args, begin * kOutputUnit, std::min(end * kOutputUnit, outputs),
                             x + packed + thread * per_thread);
        });
    }
}

const ManyKernels& many_for(const Kernels& table, DType dtype) {
    return dtype == DType::bfloat16 ? table.many_bf16 : table.many;
}

int few_rows_limit(const Kernels& table, DType dtype) {
    return dtype == DType::bfloat16 ? table.few_rows_limit_bf16 : table.few_rows_limit;
}

}  // namespace

void linear_4bit(const LinearProblem& p) {
    if (p.m == 0 || p.weight.geometry.rows == 0) return;
    const Kernels& table = kernels();
    if (p.m <= few_rows_limit(table, p.dtype)) {
        few(p, table.few);
    } else {
        many(p, many_for(table, p.dtype), false);
    }
}

void linear_4bit_backward(const LinearProblem& p) {
    if (p.m == 0 || p.weight.geometry.cols == 0) return;
    many(p, many_for(kernels(), p.dtype), true);
}

}  // namespace kq
