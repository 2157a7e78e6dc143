// What a kernel is given, and the table of kernels of one instruction set.
//
// Kernels are pure: they read and write what their arguments point to, for the range they are given,
// allocate nothing, and start no threads. Any partition of the range gives the same result. Matrices are
// contiguous but for those with a `row_stride`, the distance in elements from one row to the next.
#pragma once

#include "codebooks.h"
#include "kernels/int8/args.h"
#include "kernels/optimizer/args.h"
#include "types.h"

namespace kq {

struct Quantize4Args {
    const void* x;  // [rows, cols] of dtype
    int64_t row_stride;
    DType dtype;
    uint8_t* codes;  // [rows, bytes_per_row]
    float* absmax;   // [rows, blocks_per_row]
    Geometry geometry;
    const Codebook4* book;
};

struct Dequantize4Args {
    const uint8_t* codes;
    Scales scales;
    void* out;  // [rows, cols] of dtype
    DType dtype;
    Geometry geometry;
    const Codebook4* book;
};

struct Quantize8Args {
    const void* x;
    int64_t row_stride;
    DType dtype;
    uint8_t* codes;  // [rows, cols]
    float* absmax;   // [rows, blocks_per_row]
    Geometry geometry;
    const Codebook8* book;
};

struct Dequantize8Args {
    const uint8_t* codes;
    const float* absmax;
    void* out;
    DType dtype;
    Geometry geometry;
    const float* values;  // [256]
};

// The packed weight W [n, k] of a linear layer.
struct Weight4 {
    const uint8_t* codes;
    Scales scales;
    Geometry geometry;
    const Codebook4* book;
};

// Rows of x as pack of FewKernels stores them.
struct Linear4FewArgs {
    const float* x;  // [m, stride(k)]
    int m;           // 1..kFewRows
    Weight4 weight;
    const void* bias;  // [n] of dtype, or null
    void* out;         // [m, n] of dtype
    DType dtype;
};

// out[m, i] = sum over r of x[m, r] * w(i, r), where w(i, r) is W[i, r] (forward) or W[r, i] (backward,
// transposed).
struct Linear4ManyArgs {
    const float* x;  // as pack of ManyKernels stores it
    int64_t m;
    Weight4 weight;
    bool transposed;
    const void* bias;
    void* out;  // [m, outputs] of dtype
    DType dtype;
};

struct PackArgs {
    const void* x;  // [m, k] of dtype
    int64_t row_stride;
    DType dtype;
    int64_t m;
    int64_t k;
    float* out;
    bool transposed = false;  // for the product with W transposed
};

constexpr int kFewRows = 4;

// x W^T for at most kFewRows rows of x. `scratch` holds scratch(geometry) floats for each thread.
struct FewKernels {
    int64_t (*stride)(int64_t k);
    int64_t (*scratch)(const Geometry&);
    void (*pack)(const PackArgs&);
    void (*multiply)(const Linear4FewArgs&, int64_t begin, int64_t end, float* scratch);
};

// Products for any number of rows, forward and backward. Columns of x are packed in any partition that begins
// at multiples of kPackUnit; ranges of outputs begin at multiples of kOutputUnit. What x is packed to need
// not be float32: its size is counted in floats.
struct ManyKernels {
    int64_t (*packed)(int64_t m, int64_t k);  // floats of packed x
    int64_t (*scratch)(int64_t m);            // floats for each thread
    void (*pack)(const PackArgs&, int64_t begin, int64_t end);
    void (*multiply)(const Linear4ManyArgs&, int64_t begin, int64_t end, float* scratch);
};

constexpr int64_t kPackUnit = 64;
constexpr int64_t kOutputUnit = 32;

struct Kernels {
    void (*quantize_4bit)(const Quantize4Args&, int64_t block_begin, int64_t block_end);
    void (*dequantize_4bit)(const Dequantize4Args&, int64_t block_begin, int64_t block_end);
    void (*quantize_blockwise)(const Quantize8Args&, int64_t block_begin, int64_t block_end);
    void (*dequantize_blockwise)(const Dequantize8Args&, int64_t block_begin, int64_t block_end);
    void (*optimizer_step)(const StepArgs&, int64_t block_begin, int64_t block_end);
    void (*optimizer_squares)(const StepArgs&, int64_t block_begin, int64_t block_end, Squares*);
    FewKernels few;
    ManyKernels many;
    ManyKernels many_bf16;  // for bfloat16
    // Rows of x up to which `few` is the faster one (tables.cpp).
    int few_rows_limit;
    int few_rows_limit_bf16;
    Int8Kernels int8;
};

// One per instruction set; dispatch.h chooses.
namespace scalar {
extern const Kernels kernels;
}
#if KQ_X86
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
namespace vnni {
extern const Kernels kernels;
}
namespace amx {
extern const Kernels kernels;
}
#endif

}  // namespace kq
