#include "optimizer.h"

#include <cmath>

#include "dispatch.h"
#include "parallel.h"

namespace kq {
namespace {

constexpr int64_t kBlocksPerThread = 64;
// Blocks whose squares are added up by one thread before the sums of a tensor are, in order: so sums do not
// depend on the number of threads.
constexpr int64_t kBlocksPerSum = 256;

int64_t count_blocks(const StepArgs& t) { return (t.size + kStepBlock - 1) / kStepBlock; }

// Calls body(tensor, begin, end) for the parts of [0, units of all tensors) that a thread gets: all tensors
// are one range, so that many small ones are as parallel as one large one.
template <class Units, class Body>
void parallel_over(const std::vector<StepArgs>& tensors, int64_t grain, int requested, Units units,
                   Body body) {
    std::vector<int64_t> starts{0};
    starts.reserve(tensors.size() + 1);
    for (const StepArgs& t : tensors) starts.push_back(starts.back() + units(t));
    const int threads = thread_count(starts.back(), grain, requested);
    parallel_ranges(starts.back(), threads, [&](int64_t begin, int64_t end, int) {
        const auto after = std::upper_bound(starts.begin(), starts.end(), begin);
        for (size_t i = static_cast<size_t>(after - starts.begin()) - 1; starts[i] < end; ++i) {
            const int64_t first = std::max(begin, starts[i]), last = std::min(end, starts[i + 1]);
            if (first < last) body(i, first - starts[i], last - starts[i]);
        }
    });
}

// The factor of a step, from the norms of the parameter and of the other vector.
double trust_ratio(const StepOptions& o, double param, double other) {
    const double* h = o.hyper.data();
    switch (o.spec->trust) {
        case Trust::lamb: return param != 0 && other != 0 ? param / other : 1.0;
        case Trust::lars:
            if (param == 0 || other == 0) return 1.0;
            return h[4] * param / (other + o.weight_decay * param + h[3]);
        case Trust::clip: {
            if (other == 0) return 1.0;
            const double ratio = o.hyper.back() * param / other;
            return ratio > 1 ? 1.0 : ratio;  // NaN stays
        }
        case Trust::none: break;
    }
    return 1.0;
}

void apply_trust(const StepOptions& o, std::vector<StepArgs>& tensors, int threads) {
    std::vector<int64_t> starts{0};
    const auto sums_of = [](const StepArgs& t) {
        return (count_blocks(t) + kBlocksPerSum - 1) / kBlocksPerSum;
    };
    for (const StepArgs& t : tensors) starts.push_back(starts.back() + sums_of(t));
    std::vector<Squares> sums(static_cast<size_t>(starts.back()));
    const auto kernel = kernels().optimizer_squares;
    parallel_over(tensors, 1, threads, sums_of, [&](size_t i, int64_t begin, int64_t end) {
        for (int64_t sum = begin; sum < end; ++sum) {
            const int64_t last = std::min((sum + 1) * kBlocksPerSum, count_blocks(tensors[i]));
            kernel(tensors[i], sum * kBlocksPerSum, last, &sums[static_cast<size_t>(starts[i] + sum)]);
        }
    });
    for (size_t i = 0; i < tensors.size(); ++i) {
        Squares total;
        for (int64_t sum = starts[i]; sum < starts[i + 1]; ++sum) {
            total.param += sums[static_cast<size_t>(sum)].param;
            total.other += sums[static_cast<size_t>(sum)].other;
        }
        const double ratio = trust_ratio(o, std::sqrt(total.param), std::sqrt(total.other));
        if (o.spec->trust == Trust::lars) {
            tensors[i].gradient.factor = static_cast<float>(ratio);
        } else {
            tensors[i].numbers.step = static_cast<float>(o.lr * ratio);
        }
    }
}

}  // namespace

void step_all(const StepOptions& options, std::vector<StepArgs>& tensors, int threads) {
    if (options.spec->trust != Trust::none) apply_trust(options, tensors, threads);
    const auto kernel = kernels().optimizer_step;
    parallel_over(tensors, kBlocksPerThread, threads, count_blocks,
                  [&](size_t i, int64_t begin, int64_t end) { kernel(tensors[i], begin, end); });
}

}  // namespace kq
