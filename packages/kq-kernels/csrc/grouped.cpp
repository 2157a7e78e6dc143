#include "grouped.h"

#include <algorithm>

#include "many_rows.h"

namespace kq {
namespace {

// Decoding a weight costs as much as multiplying it with so many rows (measured, AVX-512).
constexpr int64_t kRowsPerDecode = 8;

Weight4 weight_of(const GroupedProblem& p, int64_t expert) {
    Weight4 out = p.weights;
    out.geometry.rows = p.n;
    out.codes += expert * p.n * out.geometry.bytes_per_row();
    out.scales.first_block = expert * p.n * out.geometry.blocks_per_row();
    return out;
}

// One product for each expert that has rows, the longest first; `width` is that of `out`.
std::vector<LinearProblem> products(const GroupedProblem& p, int64_t width) {
    std::vector<LinearProblem> all;
    int64_t row = 0;
    for (size_t i = 0; i < p.counts.size(); ++i) {
        const auto expert = static_cast<int64_t>(i);
        if (p.counts[i] > 0) {
            const void* bias = p.bias == nullptr ? nullptr : advance(p.bias, p.dtype, expert * p.n);
            all.push_back({advance(p.x, p.dtype, row * p.row_stride), p.row_stride, p.dtype, p.counts[i],
                           weight_of(p, expert), bias, advance(p.out, p.dtype, row * width), p.threads});
        }
        row += p.counts[i];
    }
    std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.m > b.m; });
    return all;
}

// Whether it is faster to give whole products to threads than to share out each: no thread is started for
// each product, but some threads may have nothing left to do before the last one ends.
bool whole_products(const std::vector<LinearProblem>& all, int64_t weights, int threads) {
    if (threads <= 1) return false;
    std::vector<int64_t> load(static_cast<size_t>(threads));  // in rows, of the schedule that will come about
    int64_t total = 0;
    for (const LinearProblem& one : all) {
        *std::min_element(load.begin(), load.end()) += one.m + kRowsPerDecode;
        total += one.m + kRowsPerDecode;
    }
    const int64_t last = *std::max_element(load.begin(), load.end());
    const double idle = static_cast<double>(last) - static_cast<double>(total) / threads;
    const double starts = static_cast<double>(all.size()) * kWeightsPerThread;
    return idle / kRowsPerDecode * static_cast<double>(weights) <= starts;
}

void multiply(const GroupedProblem& p, int64_t width, void (*product)(const LinearProblem&)) {
    std::vector<LinearProblem> all = products(p, width);
    if (all.empty()) return;
    const auto experts = static_cast<int64_t>(all.size());
    const int64_t weights = p.n * p.weights.geometry.cols;
    const int threads = static_cast<int>(
        std::min<int64_t>(experts, thread_count(experts * weights, kWeightsPerThread, p.threads)));
    if (!whole_products(all, weights, threads)) {
        for (const LinearProblem& one : all) product(one);
        return;
    }
    for (LinearProblem& one : all) one.threads = 1;
    parallel_tasks(experts, threads, [&](int64_t i) { product(all[static_cast<size_t>(i)]); });
}

}  // namespace

void linear_4bit_grouped(const GroupedProblem& p) { multiply(p, p.n, linear_4bit); }

void linear_4bit_grouped_backward(const GroupedProblem& p) {
    multiply(p, p.weights.geometry.cols, linear_4bit_backward);
}

}  // namespace kq
