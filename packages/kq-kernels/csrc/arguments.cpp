#include "arguments.h"

#include <nanobind/stl/string.h>

#include <cmath>

#include "exchange.h"

namespace kq {
namespace {

const char* name_of(DType dtype) {
    switch (dtype) {
        case DType::float32: return "float32";
        case DType::bfloat16: return "bfloat16";
        case DType::float16: return "float16";
        case DType::uint8: return "uint8";
        case DType::int32: return "int32";
        case DType::int8: return "int8";
    }
    return "";
}

[[noreturn]] void value_error(const std::string& text) { throw nb::value_error(text.c_str()); }
[[noreturn]] void type_error(const std::string& text) { throw nb::type_error(text.c_str()); }

std::string quoted(const std::string& text) { return "'" + text + "'"; }

DType dtype_of(const std::string& text, const char* name) {
    for (DType dtype :
         {DType::float32, DType::bfloat16, DType::float16, DType::uint8, DType::int8, DType::int32}) {
        if (text == name_of(dtype)) return dtype;
    }
    type_error(std::string(name) + ": unknown dtype " + quoted(text));
}

DType dtype_of(const nb::dlpack::dtype& dtype, const char* name) {
    using nb::dlpack::dtype_code;
    const auto code = static_cast<dtype_code>(dtype.code);
    if (dtype.lanes == 1) {
        if (code == dtype_code::Float && dtype.bits == 32) return DType::float32;
        if (code == dtype_code::Float && dtype.bits == 16) return DType::float16;
        if (code == dtype_code::Bfloat && dtype.bits == 16) return DType::bfloat16;
        if (code == dtype_code::UInt && dtype.bits == 8) return DType::uint8;
        if (code == dtype_code::Int && dtype.bits == 8) return DType::int8;
        if (code == dtype_code::Int && dtype.bits == 32) return DType::int32;
    }
    type_error(std::string(name) +
               ": expected float32, bfloat16, float16, uint8, int8 or int32 elements, got type code " +
               std::to_string(dtype.code) + " with " + std::to_string(dtype.bits) + " bits");
}

Array from_tuple(nb::tuple t, const char* name) {
    uint64_t address = 0;
    std::string dtype;
    Array out;
    if (t.size() != 3 || !nb::try_cast(t[0], address) || !nb::try_cast(t[1], out.size) ||
        !nb::try_cast(t[2], dtype)) {
        type_error(std::string(name) + ": a tuple must be (address, size, dtype name)");
    }
    if (out.size < 0) value_error(std::string(name) + ": size " + std::to_string(out.size) + " is negative");
    out.data = reinterpret_cast<void*>(address);
    out.dtype = dtype_of(dtype, name);
    return out;
}

int64_t size_of(const nb::dlpack::dltensor& t) {
    int64_t size = 1;
    for (int i = 0; i < t.ndim; ++i) size *= t.shape[i];
    return size;
}

bool is_contiguous(const nb::dlpack::dltensor& t) {
    if (t.strides == nullptr || size_of(t) == 0) return true;
    int64_t expected = 1;
    for (int i = t.ndim - 1; i >= 0; --i) {
        if (t.shape[i] != 1 && t.strides[i] != expected) return false;
        expected *= t.shape[i];
    }
    return true;
}

// Takes what needs no conversion; the rest is left to from_object, also to be refused with its messages.
bool from_exchange(nb::handle object, const char* name, Array& out) {
    nb::dlpack::dltensor seen;
    if (!describe_by_exchange(object, seen)) return false;
    if (seen.device.device_type != nb::device::cpu::value || !is_contiguous(seen)) return false;
    if (seen.data != nullptr) out.data = static_cast<char*>(seen.data) + seen.byte_offset;
    out.size = size_of(seen);
    out.dtype = dtype_of(seen.dtype, name);
    return true;
}

Array from_object(nb::handle object, const char* name, Access access) {
    Array out;
    // The exchange does not tell what is read-only.
    if (access != Access::write && from_exchange(object, name, out)) return out;
    nb::ndarray<nb::c_contig, nb::device::cpu, nb::ro> readable;
    if (!nb::try_cast(object, readable, false)) {
        type_error(
            std::string(name) +
            ": expected a row-major contiguous array in CPU memory, or (address, size, dtype name), got " +
            nb::type_name(object.type()).c_str());
    }
    nb::ndarray<nb::c_contig, nb::device::cpu> writable;
    if (access != Access::read && !nb::try_cast(object, writable, false)) {
        value_error(std::string(name) + ": the array is read-only");
    }
    out.data = const_cast<void*>(static_cast<const void*>(readable.data()));
    out.size = static_cast<int64_t>(readable.size());
    out.dtype = dtype_of(readable.dtype(), name);
    out.owner = readable;
    return out;
}

Geometry geometry(int64_t rows, int64_t cols, int64_t blocksize) {
    int64_t size;
    if (rows < 0) value_error("rows: " + std::to_string(rows) + " is negative");
    if (cols < 0) value_error("cols: " + std::to_string(cols) + " is negative");
    if (__builtin_mul_overflow(rows, cols, &size)) value_error("rows, cols: their product exceeds 64 bits");
    return {rows, cols, blocksize};
}

}  // namespace

Array array(nb::handle object, const char* name, Access access, DTypes dtypes) {
    Array out = nb::isinstance<nb::tuple>(object) ? from_tuple(nb::borrow<nb::tuple>(object), name)
                                                  : from_object(object, name, access);
    if (out.data == nullptr && out.size > 0) value_error(std::string(name) + ": address is null");
    for (DType dtype : dtypes) {
        if (dtype == out.dtype) return out;
    }
    std::string accepted;
    for (DType dtype : dtypes) {
        accepted += (accepted.empty() ? "" : ", ") + std::string(name_of(dtype));
    }
    type_error(std::string(name) + ": expected " + accepted + ", got " + name_of(out.dtype));
}

Array array(nb::handle object, const char* name, Access access, DTypes dtypes, int64_t size) {
    Array out = array(object, name, access, dtypes);
    if (out.size != size) {
        value_error(std::string(name) + ": expected " + std::to_string(size) + " elements, got " +
                    std::to_string(out.size));
    }
    return out;
}

QuantType quant_type(const std::string& name) {
    if (name == "nf4") return QuantType::nf4;
    if (name == "fp4") return QuantType::fp4;
    value_error("quant_type: expected 'nf4' or 'fp4', got " + quoted(name));
}

Geometry geometry_4bit(int64_t rows, int64_t cols, int64_t blocksize) {
    if (blocksize < 32 || blocksize > 4096 || (blocksize & (blocksize - 1)) != 0) {
        value_error("blocksize: expected a power of two from 32 to 4096, got " + std::to_string(blocksize));
    }
    return geometry(rows, cols, blocksize);
}

Geometry geometry_8bit(int64_t rows, int64_t cols, int64_t blocksize) {
    if (blocksize < 1) value_error("blocksize: expected at least 1, got " + std::to_string(blocksize));
    return geometry(rows, cols, blocksize);
}

int64_t product(int64_t a, int64_t b, const char* names) {
    int64_t size;
    if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &size)) {
        value_error(std::string(names) + ": expected sizes >= 0 with a product below 2^63");
    }
    return size;
}

int64_t row_stride(std::optional<int64_t> given, int64_t cols) {
    if (given && *given < cols) {
        value_error("row_stride: expected at least the " + std::to_string(cols) + " elements of a row, got " +
                    std::to_string(*given));
    }
    return cols == 0 ? 0 : given.value_or(cols);  // no row of an empty input is ever reached
}

int64_t strided_size(int64_t rows, int64_t cols, int64_t stride, const char* name) {
    int64_t size;
    if (rows == 0 || cols == 0) return 0;
    if (__builtin_mul_overflow(rows - 1, stride, &size) || __builtin_add_overflow(size, cols, &size)) {
        value_error(std::string(name) + ": the size of " + std::to_string(rows) + " rows, " +
                    std::to_string(stride) + " elements apart, exceeds 64 bits");
    }
    return size;
}

ScaleArrays scales(const Geometry& g, nb::handle absmax, nb::handle nested_absmax, nb::handle nested_code,
                   nb::handle offset) {
    ScaleArrays out;
    const int given = !nested_absmax.is_none() + !nested_code.is_none() + !offset.is_none();
    if (given == 0) {
        out.absmax = array(absmax, "absmax", Access::read, kScales, g.blocks());
        out.scales.absmax = out.absmax.as<const float>();
        return out;
    }
    if (given != 3) value_error("nested_absmax, nested_code, offset: give all three or none");
    out.absmax = array(absmax, "absmax", Access::read, {DType::uint8}, g.blocks());
    out.nested_absmax =
        array(nested_absmax, "nested_absmax", Access::read, kScales, (g.blocks() + 255) / 256);
    out.nested_code = array(nested_code, "nested_code", Access::read, {DType::float32}, 256);
    out.offset = array(offset, "offset", Access::read, kScales, 1);
    out.scales.codes = out.absmax.as<const uint8_t>();
    out.scales.nested_absmax = out.nested_absmax.as<const float>();
    out.scales.nested_code = out.nested_code.as<const float>();
    out.scales.offset = *out.offset.as<const float>();
    return out;
}

std::shared_ptr<const Codebook8> codebook(const Array& values, const char* name) {
    const float* v = values.as<const float>();
    for (int i = 0; i < 256; ++i) {
        if (!std::isfinite(v[i]) || (i > 0 && v[i] < v[i - 1])) {
            value_error(std::string(name) + ": expected 256 finite values in ascending order; entry " +
                        std::to_string(i) + " is " + std::to_string(v[i]));
        }
    }
    return codebook_8bit(v);
}

int thread_argument(int64_t threads) {
    if (threads < 0 || threads > 4096) {
        value_error("threads: expected 0 (OpenMP's choice) to 4096, got " + std::to_string(threads));
    }
    return static_cast<int>(threads);
}

}  // namespace kq
