// Element types: calling a kernel template for the type that a DType names, and single elements through
// the vector conversions. Included after a vec header.
#pragma once

namespace kq::KQ_ISA {

template <class Call>
static inline void with_float_type(DType dtype, Call call) {
    switch (dtype) {
        case DType::float32: return call(float{});
        case DType::bfloat16: return call(bf16{});
        case DType::float16: return call(f16{});
        case DType::uint8:
        case DType::int8: return;  // refused by the bindings
    }
}

template <class T>
static inline f32 load_one(const T* p) {
    return W == 1 ? load(p) : load_n(p, 1);
}
template <class T>
static inline void store_one(T* p, f32 v) {
    if (W == 1) {
        store(p, v);
    } else {
        store_n(p, v, 1);
    }
}

}  // namespace kq::KQ_ISA
