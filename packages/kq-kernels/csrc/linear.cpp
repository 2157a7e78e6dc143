#include "linear.h"

#include "dispatch.h"
#include "parallel.h"
#include "scratch.h"

namespace kq {
namespace {

constexpr int64_t kColumnUnit = 24;  // a multiple of every kernel's tile, and even: codes come in pairs
constexpr int64_t kWeightsPerThread = 32768;  // below, starting a thread costs more than it saves
constexpr int64_t kMaxRows = 2048;            // bounds the scratch; decoding is long amortized by then
constexpr int64_t kFloatsPerLine = 16;        // no two threads' scratch shares a cache line

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

const void* advance(const void* p, DType dtype, int64_t elements) {
    return static_cast<const char*>(p) + elements * itemsize(dtype);
}

void* advance(void* p, DType dtype, int64_t elements) {
    return static_cast<char*>(p) + elements * itemsize(dtype);
}

void few(const LinearProblem& p, const Kernels& kernels) {
    const Geometry& g = p.weight.geometry;
    const int64_t stride = kernels.few_stride(g.cols);
    const int64_t per_thread = round_up(kernels.few_scratch(g), kFloatsPerLine);
    const int threads = thread_count(g.rows * g.cols, kWeightsPerThread, p.threads);
    float* scratch = scratch_floats(kFewRows * stride + threads * per_thread);
    float* scales = scratch + kFewRows * stride;
    for (int64_t row = 0; row < p.m; row += kFewRows) {
        const int rows = static_cast<int>(p.m - row < kFewRows ? p.m - row : kFewRows);
        kernels.pack_few(
            {advance(p.x, p.dtype, row * p.row_stride), p.row_stride, p.dtype, rows, g.cols, scratch});
        const Linear4FewArgs args{scratch, rows, p.weight, p.bias, advance(p.out, p.dtype, row * g.rows),
                                  p.dtype};
        parallel_ranges(g.rows, threads, [&](int64_t begin, int64_t end, int thread) {
            kernels.linear_4bit_few(args, begin, end, scales + thread * per_thread);
        });
    }
}

void many(const LinearProblem& p, const Kernels& kernels, bool transposed) {
    const Geometry& g = p.weight.geometry;
    const int64_t depth = transposed ? g.rows : g.cols;
    const int64_t outer = transposed ? g.cols : g.rows;
    const int64_t units = (outer + kColumnUnit - 1) / kColumnUnit;
    const int64_t most = p.m < kMaxRows ? p.m : kMaxRows;
    const int threads = thread_count(g.rows * g.cols, kWeightsPerThread, p.threads);
    const int64_t packed = round_up(kernels.many_size(most, depth), kFloatsPerLine);
    const int64_t per_thread = round_up(kernels.many_scratch(most), kFloatsPerLine);
    float* x = scratch_floats(packed + threads * per_thread);
    for (int64_t row = 0; row < p.m; row += kMaxRows) {
        const int64_t rows = p.m - row < kMaxRows ? p.m - row : kMaxRows;
        const PackArgs pack{advance(p.x, p.dtype, row * p.row_stride), p.row_stride, p.dtype, rows, depth, x};
        parallel_ranges(kernels.many_tiles(rows), threads,
                        [&](int64_t begin, int64_t end, int) { kernels.pack_many(pack, begin, end); });
        const Linear4ManyArgs args{
            x, rows, p.weight, transposed, p.bias, advance(p.out, p.dtype, row * outer), p.dtype};
        parallel_ranges(units, threads, [&](int64_t begin, int64_t end, int thread) {
            const int64_t last = end * kColumnUnit < outer ? end * kColumnUnit : outer;
            kernels.linear_4bit_many(args, begin * kColumnUnit, last, x + packed + thread * per_thread);
        });
    }
}

}  // namespace

void linear_4bit(const LinearProblem& p) {
    if (p.m == 0 || p.weight.geometry.rows == 0) return;
    const Kernels& table = kernels();
    if (p.m <= table.few_rows_limit) {
        few(p, table);
    } else {
        many(p, table, false);
    }
}

void linear_4bit_backward(const LinearProblem& p) {
    if (p.m == 0 || p.weight.geometry.cols == 0) return;
    many(p, kernels(), true);
}

}  // namespace kq
