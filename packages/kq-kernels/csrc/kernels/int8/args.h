// What the int8 kernels are given. A row of a matrix in int8 has codes and one scale, absmax: the value of a
// code is code * absmax / 127.
#pragma once

#include "types.h"

namespace kq {

// Quantizing the rows of x [rows, cols].
struct Int8RowsArgs {
    const void* x;
    int64_t row_stride;
    DType dtype;
    int64_t cols;
    float threshold;  // the smallest magnitude of an outlier
    float* absmax;    // [rows]
};

// Columns with outliers, in ascending order.
struct OutlierColumns {
    const int64_t* index = nullptr;
    int64_t count = 0;
};

struct Int8DequantArgs {
    const int8_t* codes;  // [rows, cols]
    const float* absmax;  // [rows]
    void* out;            // [rows, cols] of dtype
    DType dtype;
    int64_t cols;
};

// From sums of products of codes to results [m, n] of dtype: sum * row * column / 127^2 + outliers + bias.
struct Int8Finish {
    const float* row_absmax;     // [m]
    const float* column_absmax;  // [n]
    const void* bias;            // [n] of dtype, or null
    void* out;
    DType dtype;
    int64_t n;
    // Outliers: x[m, j] in float32 for the columns j that have any, and the codes [n, k] of W.
    const float* outliers;  // [m, columns.count]
    OutlierColumns columns;
    const int8_t* weight;
    int64_t k;
};

struct Int8DescaleArgs {
    const int32_t* sums;  // [m, n]
    int64_t row_stride;
    Int8Finish finish;  // without outliers
};

// x W^T with both in codes; x as pack of Int8Product stores it.
struct Int8ProductArgs {
    const int32_t* x;
    const int32_t* start;  // [m], likewise
    int64_t m;
    const int8_t* weight;  // [n, k]
    int64_t n;
    int64_t k;
    int32_t* sums;  // [m, n]: where the bare sums go, or null
    Int8Finish finish;
};

// One row of codes of x.
struct Int8PackArgs {
    const int8_t* codes;
    int64_t k;
    int64_t row;
    int64_t m;       // rows of x
    int32_t* x;      // packed x of all rows
    int32_t* start;  // [m]: what makes up for WEIGHT_SHIFT
};

// out = grad W, decoded
struct Int8BackwardArgs {
    const float* grad;  // as pack of ManyKernels stores it
    int64_t m;
    const int8_t* weight;  // [n, k]
    const float* absmax;   // [n]
    int64_t n;
    int64_t k;
    void* out;  // [m, k] of dtype
    DType dtype;
};

// Products of codes, for few rows of x or many of them. Sizes are counted in 32-bit words.
struct Int8Product {
    int64_t (*packed)(int64_t m, int64_t k);                 // words of packed x
    int64_t (*scratch)(int64_t m, int64_t outlier_columns);  // words for each thread
    void (*pack)(const Int8PackArgs&);
    void (*multiply)(const Int8ProductArgs&, int64_t begin, int64_t end, int32_t* scratch);
};

struct Int8Kernels {
    // absmax of rows; outliers[j] becomes 1 where column j has one (null without a threshold).
    void (*absmax)(const Int8RowsArgs&, int64_t row_begin, int64_t row_end, uint8_t* outliers);
    // Codes of one row whose absmax is known.
    void (*encode)(const Int8RowsArgs&, int64_t row, const OutlierColumns&, int8_t* codes);
    // x[row, j] in float32 for the columns j.
    void (*gather)(const Int8RowsArgs&, int64_t row, const OutlierColumns&, float* out);
    void (*decode)(const Int8DequantArgs&, int64_t row_begin, int64_t row_end);
    void (*descale)(const Int8DescaleArgs&, int64_t row_begin, int64_t row_end);
    void (*backward)(const Int8BackwardArgs&, int64_t begin, int64_t end, float* scratch);
    Int8Product few;
    Int8Product many;
    int64_t few_rows_limit;  // rows of x up to which `few` is the faster one (tables.cpp)
};

}  // namespace kq
