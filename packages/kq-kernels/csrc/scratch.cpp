#include "scratch.h"

#include <cstddef>
#include <memory>
#include <new>

namespace kq {
namespace {

constexpr std::align_val_t kAlignment{64};
// A buffer above this size is given back when a call needs less than half of it.
constexpr int64_t kKeptFloats = int64_t{64} << 18;  // 64 MiB

// The sanitizer sees a step out of a buffer, but not one within a buffer that is larger than was asked for.
#ifdef __SANITIZE_ADDRESS__
constexpr bool kExact = true;
#else
constexpr bool kExact = false;
#endif

struct Free {
    void operator()(float* p) const { ::operator delete(p, kAlignment); }
};

}  // namespace

float* scratch_floats(int64_t count) {
    thread_local std::unique_ptr<float, Free> buffer;
    thread_local int64_t capacity = 0;
    const bool oversized = capacity > kKeptFloats && count < capacity / 2;
    if (count > capacity || oversized || (kExact && count != capacity)) {
        buffer.reset();
        capacity = 0;
        const size_t bytes = static_cast<size_t>(count) * sizeof(float);
        buffer.reset(static_cast<float*>(::operator new(bytes, kAlignment)));
        capacity = count;
    }
    return buffer.get();
}

}  // namespace kq
