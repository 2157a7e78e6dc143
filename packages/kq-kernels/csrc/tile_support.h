// Whether this process may use tiles (AMX).
#pragma once

namespace kq {

// Asks the operating system for its permission if the processor has tiles for bfloat16 and int8; the answer
// holds for the whole process, as does what the permission changes: room for tiles in signal frames.
bool may_use_tiles();

}  // namespace kq
