// linear_4bit and its gradient for the rows of many experts, each with its own weight.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <vector>

#include "arguments.h"
#include "grouped.h"

namespace kq {
namespace {

using Counts = std::vector<int64_t>;

int64_t total(const Counts& counts) {
    int64_t sum = 0;
    for (int64_t count : counts) {
        if (count < 0 || __builtin_add_overflow(sum, count, &sum)) {
            throw nb::value_error("counts: expected numbers of rows >= 0 with a sum below 2^63");
        }
    }
    return sum;
}

// All experts' weights as one matrix [experts * n, k], checked.
struct Experts {
    Experts(const Counts& counts, int64_t n, int64_t k, int64_t blocksize, const std::string& type,
            nb::handle packed, nb::handle absmax, nb::handle nested_absmax, nb::handle nested_code,
            nb::handle offset)
        : whole(geometry_4bit(product(static_cast<int64_t>(counts.size()), n, "counts, n"), k, blocksize)),
          codes(array(packed, "codes", Access::read, {DType::uint8}, whole.rows * whole.bytes_per_row())),
          scale(scales(whole, absmax, nested_absmax, nested_code, offset)),
          book(&codebook_4bit(quant_type(type))) {}

    Weight4 weights() const { return {codes.as<const uint8_t>(), scale.scales, whole, book}; }

    Geometry whole;
    Array codes;
    ScaleArrays scale;
    const Codebook4* book;
};

void linear_4bit_grouped_call(nb::handle x, nb::handle codes, nb::handle absmax, nb::handle bias,
                              nb::handle out, const Counts& counts, int64_t n, int64_t k, int64_t blocksize,
                              const std::string& type, nb::handle nested_absmax, nb::handle nested_code,
                              nb::handle offset, int64_t threads, std::optional<int64_t> given_stride) {
    const int64_t rows = total(counts);
    const Experts experts(counts, n, k, blocksize, type, codes, absmax, nested_absmax, nested_code, offset);
    const int64_t outputs = product(rows, n, "counts, n");
    const int64_t stride = row_stride(given_stride, k);
    const Array in = array(x, "x", Access::read, kFloats, strided_size(rows, k, stride, "x"));
    Array added;
    if (!bias.is_none()) added = array(bias, "bias", Access::read, {in.dtype}, experts.whole.rows);
    const Array result = array(out, "out", Access::write, {in.dtype}, outputs);
    const GroupedProblem problem{in.data,
                                 stride,
                                 in.dtype,
                                 counts,
                                 experts.weights(),
                                 n,
                                 added.data,
                                 result.data,
                                 thread_argument(threads)};
    nb::gil_scoped_release unlocked;
    linear_4bit_grouped(problem);
}

void linear_4bit_grouped_backward_call(nb::handle grad, nb::handle codes, nb::handle absmax, nb::handle out,
                                       const Counts& counts, int64_t n, int64_t k, int64_t blocksize,
                                       const std::string& type, nb::handle nested_absmax,
                                       nb::handle nested_code, nb::handle offset, int64_t threads,
                                       std::optional<int64_t> given_stride) {
    const int64_t rows = total(counts);
    const Experts experts(counts, n, k, blocksize, type, codes, absmax, nested_absmax, nested_code, offset);
    const int64_t outputs = product(rows, k, "counts, k");
    const int64_t stride = row_stride(given_stride, n);
    const Array in = array(grad, "grad", Access::read, kFloats, strided_size(rows, n, stride, "grad"));
    const Array result = array(out, "out", Access::write, {in.dtype}, outputs);
    const GroupedProblem problem{in.data,
                                 stride,
                                 in.dtype,
                                 counts,
                                 experts.weights(),
                                 n,
                                 nullptr,
                                 result.data,
                                 thread_argument(threads)};
    nb::gil_scoped_release unlocked;
    linear_4bit_grouped_backward(problem);
}

}  // namespace

void bind_grouped(nb::module_& m) {
    using namespace nb::literals;
    m.def("linear_4bit_grouped", &linear_4bit_grouped_call, "x"_a, "codes"_a, "absmax"_a, "bias"_a.none(),
          "out"_a, "counts"_a, "n"_a, "k"_a, "blocksize"_a, "quant_type"_a, "nested_absmax"_a = nb::none(),
          "nested_code"_a = nb::none(), "offset"_a = nb::none(), "threads"_a = 0,
          "row_stride"_a = nb::none());
    m.def("linear_4bit_grouped_backward", &linear_4bit_grouped_backward_call, "grad"_a, "codes"_a, "absmax"_a,
          "out"_a, "counts"_a, "n"_a, "k"_a, "blocksize"_a, "quant_type"_a, "nested_absmax"_a = nb::none(),
          "nested_code"_a = nb::none(), "offset"_a = nb::none(), "threads"_a = 0,
          "row_stride"_a = nb::none());
}

}  // namespace kq
