#include "output_pages.h"

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace kq {

#ifdef __linux__
namespace {

// glibc maps larger blocks one by one and unmaps them when they are freed, so the advice ends with the block.
// Smaller ones it recycles: they have been touched, and advice would outlive the output.
constexpr int64_t kMappedBytes = int64_t{32} << 20;
constexpr uintptr_t kHugePage = uintptr_t{2} << 20;

bool in_memory(uintptr_t address) {
    const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    unsigned char resident = 1;
    mincore(reinterpret_cast<void*>(address & ~(page - 1)), page, &resident);
    return (resident & 1) != 0;
}

}  // namespace

void prepare_output(void* out, int64_t bytes) {
    if (bytes < kMappedBytes) return;
    const uintptr_t begin = reinterpret_cast<uintptr_t>(out);
    const uintptr_t end = begin + static_cast<uintptr_t>(bytes);
    // Pages that belong to the output alone.
    const uintptr_t first = (begin + kHugePage - 1) & ~(kHugePage - 1);
    const uintptr_t last = end & ~(kHugePage - 1);
    if (in_memory(first) || in_memory(first + (last - first) / 2) || in_memory(last - 1)) return;
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // advice: a refusal is no error
}
#else
void prepare_output(void*, int64_t) {}
#endif

}  // namespace kq
