// Splitting a range over the threads of the OpenMP runtime that the process already has.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

namespace kq {

// Threads worth starting for `units` of work of which one thread should get at least `grain`.
inline int thread_count(int64_t units, int64_t grain, int requested) {
    const int64_t most = requested > 0 ? requested : omp_get_max_threads();
    return static_cast<int>(std::clamp<int64_t>(units / std::max<int64_t>(grain, 1), 1, most));
}

// Calls body(begin, end, thread) for contiguous parts of [0, units).
template <class Body>
void parallel_ranges(int64_t units, int threads, Body body) {
    if (units <= 0) return;
    if (threads <= 1) {
        body(int64_t{0}, units, 0);
        return;
    }
#pragma omp parallel num_threads(threads)
    {
        const int64_t count = omp_get_num_threads();
        const int64_t index = omp_get_thread_num();
        const int64_t begin = units * index / count;
        const int64_t end = units * (index + 1) / count;
        if (begin < end) body(begin, end, static_cast<int>(index));
    }
}

}  // namespace kq
