#include "int8.h"

#include <vector>

#include "dispatch.h"
#include "many_rows.h"
#include "output_pages.h"

namespace kq {
namespace {

constexpr int64_t kElementsPerThread = 32768;

int threads_for(int64_t rows, int64_t cols, int requested) {
    const int threads = thread_count(rows * cols, kElementsPerThread, requested);
    return static_cast<int>(std::clamp<int64_t>(rows, 1, threads));
}

// absmax of all rows; outliers[j] becomes whether column j has one.
void find_outliers(const Int8RowsArgs& args, int64_t rows, int requested, uint8_t* outliers) {
    const int threads = threads_for(rows, args.cols, requested);
    const auto cols = static_cast<size_t>(args.cols);
    std::vector<uint8_t> others(static_cast<size_t>(threads - 1) * cols);
    std::fill_n(outliers, cols, uint8_t{0});
    parallel_ranges(rows, threads, [&](int64_t begin, int64_t end, int thread) {
        uint8_t* own = thread == 0 ? outliers : others.data() + static_cast<size_t>(thread - 1) * cols;
        kernels().int8.absmax(args, begin, end, own);
    });
    for (size_t other = 0; other < others.size(); other += cols) {
        for (size_t j = 0; j < cols; ++j) outliers[j] |= others[other + j];
    }
}

std::vector<int64_t> columns_of(const uint8_t* outliers, int64_t cols) {
    std::vector<int64_t> found;
    for (int64_t j = 0; j < cols; ++j) {
        if (outliers[j] != 0) found.push_back(j);
    }
    return found;
}

// Packs the rows of x, a pass at a time, and multiplies them. codes_of(row, buffer) gives the codes of a row,
// which it may put into the buffer.
template <class CodesOf>
void multiply(Int8ProductArgs args, int64_t m, int requested, const CodesOf& codes_of) {
    const Int8Kernels& table = kernels().int8;
    const Int8Product& product = m <= table.few_rows_limit ? table.few : table.many;
    const int64_t n = args.n, k = args.k, outlier_columns = args.finish.columns.count;
    const int64_t most = most_rows(m);
    const int threads = thread_count(n * k, kWeightsPerThread, requested);
    const int64_t packed = round_up(product.packed(most, k), kFloatsPerLine);
    const int64_t starts = round_up(most, kFloatsPerLine);
    const int64_t row_words = ceil_div(k, 4);
    const int64_t per_thread =
        round_up(std::max(product.scratch(most, outlier_columns), row_words), kFloatsPerLine);
    int32_t* x = reinterpret_cast<int32_t*>(scratch_floats(packed + starts + threads * per_thread));
    int32_t* start = x + packed;
    int32_t* scratch = start + starts;
    for_passes(m, [&](int64_t first, int64_t rows) {
        const int packers = std::min(threads, threads_for(rows, k, requested));
        parallel_ranges(rows, packers, [&](int64_t begin, int64_t end, int thread) {
            int8_t* buffer = reinterpret_cast<int8_t*>(scratch + thread * per_thread);
            for (int64_t row = begin; row < end; ++row) {
                product.pack({codes_of(first + row, buffer), k, row, rows, x, start});
            }
        });
        Int8ProductArgs pass = args;
        pass.x = x;
        pass.start = start;
        pass.m = rows;
        if (args.sums != nullptr) {
            pass.sums += first * n;
        } else {
            pass.finish.row_absmax += first;
            pass.finish.outliers += first * outlier_columns;
            pass.finish.out = advance(args.finish.out, args.finish.dtype, first * n);
        }
        parallel_ranges(ceil_div(n, kOutputUnit), threads, [&](int64_t begin, int64_t end, int thread) {
            product.multiply(pass, begin * kOutputUnit, std::min(end * kOutputUnit, n),
                             scratch + thread * per_thread);
        });
    });
}

}  // namespace

void int8_quantize(const Int8RowsArgs& args, int64_t rows, int8_t* codes, uint8_t* outliers, int requested) {
    const Int8Kernels& table = kernels().int8;
    const int64_t cols = args.cols;
    prepare_output(codes, rows * cols);
    std::vector<int64_t> found;
    if (outliers != nullptr) {
        find_outliers(args, rows, requested, outliers);
        found = columns_of(outliers, cols);
    }
    const OutlierColumns columns{found.data(), static_cast<int64_t>(found.size())};
    parallel_ranges(rows, threads_for(rows, cols, requested), [&](int64_t begin, int64_t end, int) {
        for (int64_t row = begin; row < end; ++row) {
            if (outliers == nullptr) table.absmax(args, row, row + 1, nullptr);
            table.encode(args, row, columns, codes + row * cols);
        }
    });
}

void int8_dequantize(const Int8DequantArgs& args, int64_t rows, int requested) {
    prepare_output(args.out, rows * args.cols * itemsize(args.dtype));
    parallel_ranges(rows, threads_for(rows, args.cols, requested),
                    [&](int64_t begin, int64_t end, int) { kernels().int8.decode(args, begin, end); });
}

void int8_descale(const Int8DescaleArgs& args, int64_t rows, int requested) {
    prepare_output(args.finish.out, rows * args.finish.n * itemsize(args.finish.dtype));
    parallel_ranges(rows, threads_for(rows, args.finish.n, requested),
                    [&](int64_t begin, int64_t end, int) { kernels().int8.descale(args, begin, end); });
}

void int8_matmul(const Int8MatmulProblem& p) {
    if (p.m == 0 || p.n == 0) return;
    Int8ProductArgs args{};
    args.weight = p.b;
    args.n = p.n;
    args.k = p.k;
    args.sums = p.out;
    multiply(args, p.m, p.threads, [&](int64_t row, int8_t*) { return p.a + row * p.row_stride; });
}

void int8_linear(const Int8LinearProblem& p, const float* threshold) {
    if (p.m == 0 || p.n == 0) return;
    const Int8Kernels& table = kernels().int8;
    std::vector<float> absmax(static_cast<size_t>(p.m));
    Int8RowsArgs rows{p.x, p.row_stride, p.dtype, p.k, 0.0f, absmax.data()};
    std::vector<int64_t> found;
    std::vector<float> outliers;
    if (threshold != nullptr) {
        rows.threshold = *threshold;
        std::vector<uint8_t> marked(static_cast<size_t>(p.k));
        find_outliers(rows, p.m, p.threads, marked.data());
        found = columns_of(marked.data(), p.k);
        outliers.resize(static_cast<size_t>(p.m) * found.size());
    }
    const OutlierColumns columns{found.data(), static_cast<int64_t>(found.size())};
    Int8ProductArgs args{};
    args.weight = p.weight;
    args.n = p.n;
    args.k = p.k;
    args.finish = {absmax.data(), p.absmax,        p.bias,  p.out,    p.dtype,
                   p.n,           outliers.data(), columns, p.weight, p.k};
    multiply(args, p.m, p.threads, [&](int64_t row, int8_t* buffer) {
        if (threshold == nullptr) {
            table.absmax(rows, row, row + 1, nullptr);
        } else {
            table.gather(rows, row, columns, outliers.data() + row * columns.count);
        }
        table.encode(rows, row, columns, buffer);
        return buffer;
    });
}

void int8_linear_backward(const Int8LinearProblem& p) {
    if (p.m == 0 || p.k == 0) return;
    const RowsProblem rows{p.x, p.row_stride, p.dtype, p.m, p.n, p.k, p.out, true, p.threads};
    const Kernels& table = kernels();
    many_rows(rows, table.many, [&](const RowsPass& pass, int64_t begin, int64_t end, float* scratch) {
        table.int8.backward({pass.x, pass.m, p.weight, p.absmax, p.n, p.k, pass.out, p.dtype}, begin, end,
                            scratch);
    });
}

}  // namespace kq
