// The table of one instruction set: KQ_KERNEL_TABLE(isa, few_rows_limit) defines kq::isa::kernels.
#pragma once

#include "kernels/kernels.h"

#define KQ_KERNEL_TABLE(isa, few_rows_limit)                                               \
    namespace kq::isa {                                                                    \
    void quantize_4bit(const Quantize4Args&, int64_t, int64_t);                            \
    void dequantize_4bit(const Dequantize4Args&, int64_t, int64_t);                        \
    void quantize_blockwise(const Quantize8Args&, int64_t, int64_t);                       \
    void dequantize_blockwise(const Dequantize8Args&, int64_t, int64_t);                   \
    void optimizer_step(const StepArgs&, int64_t, int64_t);                                \
    void optimizer_squares(const StepArgs&, int64_t, int64_t, Squares*);                   \
    int64_t few_stride(int64_t);                                                           \
    int64_t few_scratch(const Geometry&);                                                  \
    void few_pack(const PackArgs&);                                                        \
    void few_multiply(const Linear4FewArgs&, int64_t, int64_t, float*);                    \
    int64_t many_packed(int64_t, int64_t);                                                 \
    int64_t many_scratch(int64_t);                                                         \
    void many_pack(const PackArgs&, int64_t, int64_t);                                     \
    void many_multiply(const Linear4ManyArgs&, int64_t, int64_t, float*);                  \
    extern const Kernels kernels = {quantize_4bit,                                         \
                                    dequantize_4bit,                                       \
                                    quantize_blockwise,                                    \
                                    dequantize_blockwise,                                  \
                                    optimizer_step,                                        \
                                    optimizer_squares,                                     \
                                    {few_stride, few_scratch, few_pack, few_multiply},     \
                                    {many_packed, many_scratch, many_pack, many_multiply}, \
                                    {many_packed, many_scratch, many_pack, many_multiply}, \
                                    few_rows_limit,                                        \
                                    few_rows_limit};                                       \
    }
