#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include "arguments.h"
#include "linear.h"

namespace kq {
namespace {

void linear_4bit_call(nb::handle x, nb::handle codes, nb::handle absmax, nb::handle bias, nb::handle out,
                      int64_t m, int64_t n, int64_t k, int64_t blocksize, const std::string& type,
                      nb::handle nested_absmax, nb::handle nested_code, nb::handle offset, int64_t threads,
                      std::optional<int64_t> given_stride) {
    const Geometry g = geometry_4bit(n, k, blocksize);
    const int64_t outputs = product(m, n, "m, n");
    const int64_t stride = row_stride(given_stride, k);
    const Array in = array(x, "x", Access::read, kFloats, strided_size(m, k, stride, "x"));
    const Array weight = array(codes, "codes", Access::read, {DType::uint8}, n * g.bytes_per_row());
    const ScaleArrays scale = scales(g, absmax, nested_absmax, nested_code, offset);
    Array added;
    if (!bias.is_none()) added = array(bias, "bias", Access::read, {in.dtype}, n);
    const Array result = array(out, "out", Access::write, {in.dtype}, outputs);
    const Weight4 w{weight.as<const uint8_t>(), scale.scales, g, &codebook_4bit(quant_type(type))};
    const LinearProblem problem{in.data, stride,     in.dtype,    m,
                                w,       added.data, result.data, thread_argument(threads)};
    nb::gil_scoped_release unlocked;
    linear_4bit(problem);
}

void linear_4bit_backward_call(nb::handle grad, nb::handle codes, nb::handle absmax, nb::handle out,
                               int64_t m, int64_t n, int64_t k, int64_t blocksize, const std::string& type,
                               nb::handle nested_absmax, nb::handle nested_code, nb::handle offset,
                               int64_t threads, std::optional<int64_t> given_stride) {
    const Geometry g = geometry_4bit(n, k, blocksize);
    const int64_t outputs = product(m, k, "m, k");
    const int64_t stride = row_stride(given_stride, n);
    const Array in = array(grad, "grad", Access::read, kFloats, strided_size(m, n, stride, "grad"));
    const Array weight = array(codes, "codes", Access::read, {DType::uint8}, n * g.bytes_per_row());
    const ScaleArrays scale = scales(g, absmax, nested_absmax, nested_code, offset);
    const Array result = array(out, "out", Access::write, {in.dtype}, outputs);
    const Weight4 w{weight.as<const uint8_t>(), scale.scales, g, &codebook_4bit(quant_type(type))};
    const LinearProblem problem{in.data, stride,  in.dtype,    m,
                                w,       nullptr, result.data, thread_argument(threads)};
    nb::gil_scoped_release unlocked;
    linear_4bit_backward(problem);
}

}  // namespace

void bind_linear(nb::module_& m) {
    using namespace nb::literals;
    m.def("linear_4bit", &linear_4bit_call, "x"_a, "codes"_a, "absmax"_a, "bias"_a.none(), "out"_a, "m"_a,
          "n"_a, "k"_a, "blocksize"_a, "quant_type"_a, "nested_absmax"_a = nb::none(),
          "nested_code"_a = nb::none(), "offset"_a = nb::none(), "threads"_a = 0,
          "row_stride"_a = nb::none());
    m.def("linear_4bit_backward", &linear_4bit_backward_call, "grad"_a, "codes"_a, "absmax"_a, "out"_a, "m"_a,
          "n"_a, "k"_a, "blocksize"_a, "quant_type"_a, "nested_absmax"_a = nb::none(),
          "nested_code"_a = nb::none(), "offset"_a = nb::none(), "threads"_a = 0,
          "row_stride"_a = nb::none());
}

}  // namespace kq
