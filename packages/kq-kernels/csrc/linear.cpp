#include "linear.h"

#include "dispatch.h"
#include "many_rows.h"

namespace kq {
namespace {

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
    const RowsProblem rows{
        p.x,   p.row_stride, p.dtype,  p.m, transposed ? g.rows : g.cols, transposed ? g.cols : g.rows,
        p.out, transposed,   p.threads};
    many_rows(rows, kernels, [&](const RowsPass& pass, int64_t begin, int64_t end, float* scratch) {
        const Linear4ManyArgs args{pass.x, pass.m, p.weight, transposed, p.bias, pass.out, p.dtype};
        kernels.multiply(args, begin, end, scratch);
    });
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
