#include "tile_support.h"

#if KQ_X86 && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace kq {

#if KQ_X86 && defined(__linux__)
namespace {

#if KQ_AMX_MODEL
bool has_tiles() { return true; }

// Not a question about tiles, but one that the same sandboxes refuse.
bool permitted() {
    constexpr int kGetFs = 0x1003;
    unsigned long fs;
    return syscall(SYS_arch_prctl, kGetFs, &fs) == 0;
}
#else
// The compiler's library asks, too, whether the operating system saves the registers.
bool has_tiles() {
    return __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&
           __builtin_cpu_supports("amx-int8") && __builtin_cpu_supports("avx512bf16");
}

bool permitted() {
    constexpr int kRequestStatePermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
    constexpr int kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestStatePermission, kTileData) == 0;
}
#endif

}  // namespace

bool may_use_tiles() {
    static const bool answer = has_tiles() && permitted();
    return answer;
}
#else
bool may_use_tiles() { return false; }
#endif

}  // namespace kq
