// The table of one instruction set: KQ_KERNEL_TABLE(isa, few_rows_limit, int8_few_rows_limit) defines
// kq::isa::kernels.
#pragma once

#include "kernels/kernels.h"

// The product of int8 codes `which`, few or many.
#define KQ_INT8_PRODUCT(which, name)                                                                  \
    int64_t int8_##which##_packed(int64_t, int64_t);                                                  \
    int64_t int8_##which##_scratch(int64_t, int64_t);                                                 \
    void int8_##which##_pack(const Int8PackArgs&);                                                    \
    void int8_##which##_multiply(const Int8ProductArgs&, int64_t, int64_t, int32_t*);                 \
    constexpr Int8Product name = {int8_##which##_packed, int8_##which##_scratch, int8_##which##_pack, \
                                  int8_##which##_multiply};
#define KQ_INT8_PRODUCTS KQ_INT8_PRODUCT(few, kInt8Few) KQ_INT8_PRODUCT(many, kInt8Many)

#define KQ_KERNEL_TABLE(isa, few_rows_limit, int8_few_rows_limit)                                      \
    namespace kq::isa {                                                                                \
    void quantize_4bit(const Quantize4Args&, int64_t, int64_t);                                        \
    void dequantize_4bit(const Dequantize4Args&, int64_t, int64_t);                                    \
    void quantize_blockwise(const Quantize8Args&, int64_t, int64_t);                                   \
    void dequantize_blockwise(const Dequantize8Args&, int64_t, int64_t);                               \
    void optimizer_step(const StepArgs&, int64_t, int64_t);                                            \
    void optimizer_squares(const StepArgs&, int64_t, int64_t, Squares*);                               \
    int64_t few_stride(int64_t);                                                                       \
    int64_t few_scratch(const Geometry&);                                                              \
    void few_pack(const PackArgs&);                                                                    \
    void few_multiply(const Linear4FewArgs&, int64_t, int64_t, float*);                                \
    int64_t many_packed(int64_t, int64_t);                                                             \
    int64_t many_scratch(int64_t);                                                                     \
    void many_pack(const PackArgs&, int64_t, int64_t);                                                 \
    void many_multiply(const Linear4ManyArgs&, int64_t, int64_t, float*);                              \
    void int8_absmax(const Int8RowsArgs&, int64_t, int64_t, uint8_t*);                                 \
    void int8_encode(const Int8RowsArgs&, int64_t, const OutlierColumns&, int8_t*);                    \
    void int8_gather(const Int8RowsArgs&, int64_t, const OutlierColumns&, float*);                     \
    void int8_decode(const Int8DequantArgs&, int64_t, int64_t);                                        \
    void int8_descale(const Int8DescaleArgs&, int64_t, int64_t);                                       \
    void int8_backward(const Int8BackwardArgs&, int64_t, int64_t, float*);                             \
    KQ_INT8_PRODUCTS                                                                                   \
    extern const Kernels kernels = {quantize_4bit,                                                     \
                                    dequantize_4bit,                                                   \
                                    quantize_blockwise,                                                \
                                    dequantize_blockwise,                                              \
                                    optimizer_step,                                                    \
                                    optimizer_squares,                                                 \
                                    {few_stride, few_scratch, few_pack, few_multiply},                 \
                                    {many_packed, many_scratch, many_pack, many_multiply},             \
                                    {many_packed, many_scratch, many_pack, many_multiply},             \
                                    few_rows_limit,                                                    \
                                    few_rows_limit,                                                    \
                                    {int8_absmax, int8_encode, int8_gather, int8_decode, int8_descale, \
                                     int8_backward, kInt8Few, kInt8Many, int8_few_rows_limit}};        \
    }
