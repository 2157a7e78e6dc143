#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <cmath>
#include <limits>

#include "arguments.h"
#include "int8.h"

namespace kq {
namespace {

// The smallest float32 that is not below a positive threshold; infinite ones would make no element of finite
// size an outlier, so they are taken for a mistake, as bitsandbytes' 0 for "none" is not.
float threshold_argument(double threshold) {
    if (!(threshold >= 0.0) || std::isinf(threshold)) {
        throw nb::value_error(
            ("threshold: expected a finite number >= 0, got " + std::to_string(threshold)).c_str());
    }
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    if (threshold > std::numeric_limits<float>::max()) return kInfinity;
    const float nearest = static_cast<float>(threshold);
    return nearest < threshold ? std::nextafter(nearest, kInfinity) : nearest;
}

void check_depth(int64_t k) {
    if (k > kMostInt8Depth) {
        throw nb::value_error(
            ("k: expected at most 131072, for which sums fit 32 bits, got " + std::to_string(k)).c_str());
    }
}

void vectorwise_quant(nb::handle x, nb::handle codes, nb::handle absmax, nb::handle outliers, int64_t rows,
                      int64_t cols, double threshold, int64_t threads, std::optional<int64_t> given_stride) {
    const int64_t size = product(rows, cols, "rows, cols");
    const int64_t stride = row_stride(given_stride, cols);
    const Array in = array(x, "x", Access::read, kFloats, strided_size(rows, cols, stride, "x"));
    const Array out = array(codes, "codes", Access::write, {DType::int8}, size);
    const Array scale = array(absmax, "absmax", Access::write, {DType::float32}, rows);
    const float least = threshold_argument(threshold);
    if (outliers.is_none() != (threshold == 0.0)) {
        throw nb::value_error("outliers: expected an array with a threshold above 0, else None");
    }
    Array marked;
    if (!outliers.is_none()) marked = array(outliers, "outliers", Access::write, {DType::uint8}, cols);
    const Int8RowsArgs args{in.data, stride, in.dtype, cols, least, scale.as<float>()};
    const int most = thread_argument(threads);
    nb::gil_scoped_release unlocked;
    int8_quantize(args, rows, out.as<int8_t>(), marked.as<uint8_t>(), most);
}

void vectorwise_dequant(nb::handle codes, nb::handle absmax, nb::handle out, int64_t rows, int64_t cols,
                        int64_t threads) {
    const int64_t size = product(rows, cols, "rows, cols");
    const Array in = array(codes, "codes", Access::read, {DType::int8}, size);
    const Array scale = array(absmax, "absmax", Access::read, kScales, rows);
    const Array result = array(out, "out", Access::write, kFloats, size);
    const int most = thread_argument(threads);
    nb::gil_scoped_release unlocked;
    int8_dequantize({in.as<const int8_t>(), scale.as<const float>(), result.data, result.dtype, cols}, rows,
                    most);
}

void linear_matmul(nb::handle a, nb::handle b, nb::handle out, int64_t m, int64_t n, int64_t k,
                   int64_t threads, std::optional<int64_t> given_stride) {
    check_depth(k);
    const int64_t outputs = product(m, n, "m, n");
    const int64_t stride = row_stride(given_stride, k);
    product(m, k, "m, k");
    const Array left = array(a, "a", Access::read, {DType::int8}, strided_size(m, k, stride, "a"));
    const Array right = array(b, "b", Access::read, {DType::int8}, product(n, k, "n, k"));
    const Array result = array(out, "out", Access::write, {DType::int32}, outputs);
    const int most = thread_argument(threads);
    nb::gil_scoped_release unlocked;
    int8_matmul(
        {left.as<const int8_t>(), stride, right.as<const int8_t>(), result.as<int32_t>(), m, n, k, most});
}

void mm_dequant(nb::handle a, nb::handle row_absmax, nb::handle col_absmax, nb::handle bias, nb::handle out,
                int64_t m, int64_t n, int64_t threads, std::optional<int64_t> given_stride) {
    const int64_t size = product(m, n, "m, n");
    const int64_t stride = row_stride(given_stride, n);
    const Array sums = array(a, "a", Access::read, {DType::int32}, strided_size(m, n, stride, "a"));
    const Array rows = array(row_absmax, "row_absmax", Access::read, kScales, m);
    const Array cols = array(col_absmax, "col_absmax", Access::read, kScales, n);
    const Array result = array(out, "out", Access::write, kFloats, size);
    Array added;
    if (!bias.is_none()) added = array(bias, "bias", Access::read, {result.dtype}, n);
    Int8DescaleArgs args{sums.as<const int32_t>(), stride, {}};
    args.finish.row_absmax = rows.as<const float>();
    args.finish.column_absmax = cols.as<const float>();
    args.finish.bias = added.data;
    args.finish.out = result.data;
    args.finish.dtype = result.dtype;
    args.finish.n = n;
    const int most = thread_argument(threads);
    nb::gil_scoped_release unlocked;
    int8_descale(args, m, most);
}

void linear(nb::handle x, nb::handle weight, nb::handle absmax, nb::handle bias, nb::handle out, int64_t m,
            int64_t n, int64_t k, double threshold, int64_t threads, std::optional<int64_t> given_stride) {
    check_depth(k);
    const int64_t outputs = product(m, n, "m, n");
    const int64_t stride = row_stride(given_stride, k);
    const Array in = array(x, "x", Access::read, kFloats, strided_size(m, k, stride, "x"));
    const Array codes = array(weight, "weight", Access::read, {DType::int8}, product(n, k, "n, k"));
    const Array scale = array(absmax, "absmax", Access::read, kScales, n);
    Array added;
    if (!bias.is_none()) added = array(bias, "bias", Access::read, {in.dtype}, n);
    const Array result = array(out, "out", Access::write, {in.dtype}, outputs);
    const float least = threshold_argument(threshold);
    const Int8LinearProblem problem{in.data,
                                    stride,
                                    in.dtype,
                                    m,
                                    n,
                                    k,
                                    codes.as<const int8_t>(),
                                    scale.as<const float>(),
                                    added.data,
                                    result.data,
                                    thread_argument(threads)};
    nb::gil_scoped_release unlocked;
    int8_linear(problem, threshold > 0.0 ? &least : nullptr);
}

void linear_backward(nb::handle grad, nb::handle weight, nb::handle absmax, nb::handle out, int64_t m,
                     int64_t n, int64_t k, int64_t threads, std::optional<int64_t> given_stride) {
    const int64_t outputs = product(m, k, "m, k");
    const int64_t stride = row_stride(given_stride, n);
    const Array in = array(grad, "grad", Access::read, kFloats, strided_size(m, n, stride, "grad"));
    const Array codes = array(weight, "weight", Access::read, {DType::int8}, product(n, k, "n, k"));
    const Array scale = array(absmax, "absmax", Access::read, kScales, n);
    const Array result = array(out, "out", Access::write, {in.dtype}, outputs);
    const Int8LinearProblem problem{in.data,
                                    stride,
                                    in.dtype,
                                    m,
                                    n,
                                    k,
                                    codes.as<const int8_t>(),
                                    scale.as<const float>(),
                                    nullptr,
                                    result.data,
                                    thread_argument(threads)};
    nb::gil_scoped_release unlocked;
    int8_linear_backward(problem);
}

}  // namespace

void bind_int8(nb::module_& m) {
    using namespace nb::literals;
    m.def("int8_vectorwise_quant", &vectorwise_quant, "x"_a, "codes"_a, "absmax"_a, "outliers"_a.none(),
          "rows"_a, "cols"_a, "threshold"_a = 0.0, "threads"_a = 0, "row_stride"_a = nb::none());
    m.def("int8_vectorwise_dequant", &vectorwise_dequant, "codes"_a, "absmax"_a, "out"_a, "rows"_a, "cols"_a,
          "threads"_a = 0);
    m.def("int8_linear_matmul", &linear_matmul, "a"_a, "b"_a, "out"_a, "m"_a, "n"_a, "k"_a, "threads"_a = 0,
          "row_stride"_a = nb::none());
    m.def("int8_mm_dequant", &mm_dequant, "a"_a, "row_absmax"_a, "col_absmax"_a, "bias"_a.none(), "out"_a,
          "m"_a, "n"_a, "threads"_a = 0, "row_stride"_a = nb::none());
    m.def("int8_linear", &linear, "x"_a, "weight"_a, "absmax"_a, "bias"_a.none(), "out"_a, "m"_a, "n"_a,
          "k"_a, "threshold"_a = 0.0, "threads"_a = 0, "row_stride"_a = nb::none());
    m.def("int8_linear_backward", &linear_backward, "grad"_a, "weight"_a, "absmax"_a, "out"_a, "m"_a, "n"_a,
          "k"_a, "threads"_a = 0, "row_stride"_a = nb::none());
}

}  // namespace kq
