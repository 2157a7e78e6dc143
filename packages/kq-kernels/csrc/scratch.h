// Working memory that one thread's calls use again and again: fresh pages would cost more than the work.
#pragma once

#include <cstdint>

namespace kq {

// At least `count` floats, aligned to 64 bytes, valid until this thread asks again. Throws std::bad_alloc.
float* scratch_floats(int64_t count);

}  // namespace kq
