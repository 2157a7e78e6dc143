// The processor's tiles. Assembly instead of the compiler's intrinsics, which want the register as a literal
// and, in gcc 12, do not say that a load or a configuration reads memory, so that stores before it may be
// dropped.
#pragma once

#include <immintrin.h>

namespace kq::amx::tile {

static inline void configure(const Config& config) { __asm__ volatile("ldtilecfg %0" ::"m"(config)); }
static inline void release() { __asm__ volatile("tilerelease"); }

template <int T>
static inline void zero() {
    __asm__ volatile("tilezero %%tmm%c0" ::"i"(T));
}
template <int T>
static inline void load(const void* p, int64_t stride) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(T) : "memory");
}
template <int T>
static inline void store(void* p, int64_t stride) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride), "i"(T) : "memory");
}
template <int C, int A, int B>
static inline void multiply_bf16() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}
template <int C, int A, int B>
static inline void multiply_int8() {
    __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}

static inline __m512i round_pair(__m512 a, __m512 b) {
    return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a));
}

}  // namespace kq::amx::tile
