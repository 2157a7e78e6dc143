// Turning Python arguments into checked C++ ones. Every error names the argument, what it was and what is
// accepted; nothing is touched before all arguments have been checked.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <initializer_list>
#include <optional>
#include <string>

#include "kernels/kernels.h"

namespace kq {

namespace nb = nanobind;

// A NumPy (or any DLPack or buffer) array in CPU memory, contiguous in row-major order, or a tuple
// (address, number of elements, dtype name) for frameworks whose array objects cost more to convert.
struct Array {
    void* data = nullptr;
    int64_t size = 0;
    DType dtype = DType::float32;
    std::optional<nb::ndarray<nb::c_contig, nb::device::cpu, nb::ro>> owner;  // keeps a converted array alive

    template <class T>
    T* as() const {
        return static_cast<T*>(data);
    }
};

// write_exchanged: described by the exchange table of its type (exchange.h), an array is taken to be
// writable. For lists of many arrays, where asking each of them would take longer than the work.
enum class Access { read, write, write_exchanged };

using DTypes = std::initializer_list<DType>;
inline constexpr DTypes kFloats = {DType::float32, DType::bfloat16, DType::float16};

// `size` elements of one of `dtypes`.
Array array(nb::handle object, const char* name, Access access, DTypes dtypes, int64_t size);

// As many elements as it has.
Array array(nb::handle object, const char* name, Access access, DTypes dtypes);

QuantType quant_type(const std::string& name);

// rows x cols without overflow, both >= 0. 4-bit: blocksize a power of two in 32..4096; else any from 1.
Geometry geometry_4bit(int64_t rows, int64_t cols, int64_t blocksize);
Geometry geometry_8bit(int64_t rows, int64_t cols, int64_t blocksize);

// a * b without overflow, both >= 0; `names` are those of the two.
int64_t product(int64_t a, int64_t b, const char* names);

// Modules keep the bits of float32 scales as integers, so that no cast of a model's dtype touches them.
inline constexpr DTypes kScales = {DType::float32, DType::int32};

// absmax as float32, or as 8-bit codes with all of nested_absmax, nested_code and offset.
struct ScaleArrays {
    Array absmax, nested_absmax, nested_code, offset;
    Scales scales;
};
ScaleArrays scales(const Geometry& geometry, nb::handle absmax, nb::handle nested_absmax,
                   nb::handle nested_code, nb::handle offset);

// The distance in elements between the rows of an input: `given`, at least a row's length, or just that.
int64_t row_stride(std::optional<int64_t> given, int64_t cols);

// Elements from the first to the last of such an input, without overflow; `name` is that of the input.
int64_t strided_size(int64_t rows, int64_t cols, int64_t stride, const char* name);

// 256 finite values in ascending order.
std::shared_ptr<const Codebook8> codebook(const Array& values, const char* name);

int thread_argument(int64_t threads);

void bind_blockwise(nb::module_& module);
void bind_grouped(nb::module_& module);
void bind_int8(nb::module_& module);
void bind_linear(nb::module_& module);
void bind_optimizer(nb::module_& module);

}  // namespace kq
