// Splitting a range over the threads of the OpenMP runtime that the process already has.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <exception>

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

// Calls body(task) for each of [0, tasks), in this order, each on the thread that is free next. Throws what
// one of them threw.
template <class Body>
void parallel_tasks(int64_t tasks, int threads, Body body) {
    std::exception_ptr error;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t task = 0; task < tasks; ++task) {
        try {
            body(task);
        } catch (...) {  // may not leave the region
#pragma omp critical
            error = std::current_exception();
        }
    }
    if (error) std::rethrow_exception(error);
}

}  // namespace kq
