#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include "arguments.h"
#include "dispatch.h"
#include "output_pages.h"
#include "parallel.h"

namespace kq {
namespace {

constexpr int64_t kElementsPerThread = 16384;

int64_t element_size(DType dtype) { return dtype == DType::uint8 ? 1 : dtype == DType::float32 ? 4 : 2; }

// Runs kernel(args, begin, end) over the blocks of a matrix, without the interpreter's lock. `out` is its
// large output.
template <class Args>
void run_blocks(void (*kernel)(const Args&, int64_t, int64_t), const Args& args, const Array& out,
                int threads) {
    nb::gil_scoped_release unlocked;
    prepare_output(out.data, out.size * element_size(out.dtype));
    const Geometry& g = args.geometry;
    const int64_t blocks = g.cols == 0 ? 0 : g.blocks();
    const int count = thread_count(g.rows * g.cols, kElementsPerThread, threads);
    parallel_ranges(blocks, count, [&](int64_t begin, int64_t end, int) { kernel(args, begin, end); });
}

void quantize_4bit(nb::handle x, nb::handle codes, nb::handle absmax, int64_t rows, int64_t cols,
                   int64_t blocksize, const std::string& type, int64_t threads,
                   std::optional<int64_t> given_stride) {
    const Geometry g = geometry_4bit(rows, cols, blocksize);
    const int64_t stride = row_stride(given_stride, cols);
    const Array in = array(x, "x", Access::read, kFloats, strided_size(rows, cols, stride, "x"));
    const Array out = array(codes, "codes", Access::write, {DType::uint8}, rows * g.bytes_per_row());
    const Array scale = array(absmax, "absmax", Access::write, {DType::float32}, g.blocks());
    const Quantize4Args args{
        in.data, stride, in.dtype, out.as<uint8_t>(), scale.as<float>(), g, &codebook_4bit(quant_type(type))};
    run_blocks(kernels().quantize_4bit, args, out, thread_argument(threads));
}

void dequantize_4bit(nb::handle codes, nb::handle absmax, nb::handle out, int64_t rows, int64_t cols,
                     int64_t blocksize, const std::string& type, nb::handle nested_absmax,
                     nb::handle nested_code, nb::handle offset, int64_t threads) {
    const Geometry g = geometry_4bit(rows, cols, blocksize);
    const Array in = array(codes, "codes", Access::read, {DType::uint8}, rows * g.bytes_per_row());
    const ScaleArrays scale = scales(g, absmax, nested_absmax, nested_code, offset);
    const Array result = array(out, "out", Access::write, kFloats, rows * cols);
    const Dequantize4Args args{in.as<const uint8_t>(),          scale.scales, result.data, result.dtype, g,
                               &codebook_4bit(quant_type(type))};
    run_blocks(kernels().dequantize_4bit, args, result, thread_argument(threads));
}

void quantize_blockwise(nb::handle x, nb::handle code, nb::handle codes, nb::handle absmax, int64_t rows,
                        int64_t cols, int64_t blocksize, int64_t threads,
                        std::optional<int64_t> given_stride) {
    const Geometry g = geometry_8bit(rows, cols, blocksize);
    const int64_t stride = row_stride(given_stride, cols);
    const Array in = array(x, "x", Access::read, kFloats, strided_size(rows, cols, stride, "x"));
    const std::shared_ptr<const Codebook8> book =
        codebook(array(code, "code", Access::read, {DType::float32}, 256), "code");
    const Array out = array(codes, "codes", Access::write, {DType::uint8}, rows * cols);
    const Array scale = array(absmax, "absmax", Access::write, {DType::float32}, g.blocks());
    const Quantize8Args args{in.data, stride, in.dtype, out.as<uint8_t>(), scale.as<float>(), g, book.get()};
    run_blocks(kernels().quantize_blockwise, args, out, thread_argument(threads));
}

void dequantize_blockwise(nb::handle codes, nb::handle code, nb::handle absmax, nb::handle out, int64_t rows,
                          int64_t cols, int64_t blocksize, int64_t threads) {
    const Geometry g = geometry_8bit(rows, cols, blocksize);
    const Array in = array(codes, "codes", Access::read, {DType::uint8}, rows * cols);
    const Array values = array(code, "code", Access::read, {DType::float32}, 256);
    const Array scale = array(absmax, "absmax", Access::read, {DType::float32}, g.blocks());
    const Array result = array(out, "out", Access::write, kFloats, rows * cols);
    const Dequantize8Args args{in.as<const uint8_t>(),  scale.as<const float>(), result.data, result.dtype, g,
                               values.as<const float>()};
    run_blocks(kernels().dequantize_blockwise, args, result, thread_argument(threads));
}

}  // namespace

void bind_blockwise(nb::module_& m) {
    using namespace nb::literals;
    m.def("quantize_4bit", &quantize_4bit, "x"_a, "codes"_a, "absmax"_a, "rows"_a, "cols"_a, "blocksize"_a,
          "quant_type"_a, "threads"_a = 0, "row_stride"_a = nb::none());
    m.def("dequantize_4bit", &dequantize_4bit, "codes"_a, "absmax"_a, "out"_a, "rows"_a, "cols"_a,
          "blocksize"_a, "quant_type"_a, "nested_absmax"_a = nb::none(), "nested_code"_a = nb::none(),
          "offset"_a = nb::none(), "threads"_a = 0);
    m.def("quantize_blockwise", &quantize_blockwise, "x"_a, "code"_a, "codes"_a, "absmax"_a, "rows"_a,
          "cols"_a, "blocksize"_a, "threads"_a = 0, "row_stride"_a = nb::none());
    m.def("dequantize_blockwise", &dequantize_blockwise, "codes"_a, "code"_a, "absmax"_a, "out"_a, "rows"_a,
          "cols"_a, "blocksize"_a, "threads"_a = 0);
}

}  // namespace kq
