// How the memory of a large output is brought in.
#pragma once

#include <cstdint>

namespace kq {

// Asks for huge pages where a large output has not been touched yet: zeroing its pages one fault at a time
// takes longer than computing what goes there.
void prepare_output(void* out, int64_t bytes);

}  // namespace kq
