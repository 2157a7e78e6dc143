// Walking over a range of blocks, and over memory in pieces of which the next is fetched in time.
#pragma once

#include "types.h"

namespace kq::KQ_ISA {

// Calls part(row, begin, end) for the columns [begin, end) of each row that the blocks [begin, end) cover.
template <class Part>
static inline void for_each_row(const Geometry& g, int64_t begin, int64_t end, Part part) {
    const int64_t per_row = g.blocks_per_row();
    int64_t row = begin / per_row;
    int64_t first = begin % per_row;
    for (int64_t left = end - begin; left > 0; ++row) {
        const int64_t count = per_row - first < left ? per_row - first : left;
        const int64_t stop = (first + count) * g.blocksize;
        part(row, first * g.blocksize, stop < g.cols ? stop : g.cols);
        left -= count;
        first = 0;
    }
}

// Bytes ahead that are fetched, of what is read and of what is written: hardware prefetchers stop at a page's
// end, and fetching the lines that stores will fill keeps more of them under way than the stores do.
constexpr int64_t kPrefetchBytes = 4096;

// Bytes written at a time.
constexpr int64_t kSegmentBytes = 1024;

// To be called for every n elements; in the middle of long runs the hardware does well.
template <class T>
static inline void prefetch_ahead(const T* p, int64_t n) {
    constexpr int64_t kMost = kPrefetchBytes / sizeof(T);
    const char* ahead = reinterpret_cast<const char*>(p) + kPrefetchBytes;
    const int64_t bytes = (n < kMost ? n : kMost) * static_cast<int64_t>(sizeof(T));
    for (int64_t line = 0; line < bytes; line += 64) prefetch(ahead + line);
}

// Writes out[begin, end) in segments of `step`: fill(i, n, to) gives the elements i to i + n.
template <class T, class Fill>
static inline void write_segments(T* out, int64_t begin, int64_t end, int64_t step, Fill fill) {
    for (int64_t i = begin; i < end; i += step) {
        const int64_t n = end - i < step ? end - i : step;
        prefetch_ahead(out + i, n);
        fill(i, n, out + i);
    }
}

}  // namespace kq::KQ_ISA
