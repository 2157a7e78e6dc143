#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "arguments.h"
#include "build_flags.h"
#include "dispatch.h"

NB_MODULE(_native, m) {
    namespace nb = nanobind;
    using namespace nb::literals;
    m.attr("__version__") = KQ_VERSION;
    nb::dict build;
    build["compiler"] = kq::kCompiler;
    build["openmp"] = kq::kOpenMP;
    build["flags_scalar"] = kq::kFlagsScalar;
#if KQ_X86
    build["flags_avx2"] = kq::kFlagsAvx2;
    build["flags_avx512"] = kq::kFlagsAvx512;
    build["flags_vnni"] = kq::kFlagsVnni;
    build["flags_amx"] = kq::kFlagsAmx;
#endif
    m.attr("build") = build;
    m.def("available_isas", &kq::available_isas);
    m.def("isa", &kq::current_isa);
    m.def("set_isa", &kq::set_isa, "name"_a);
    kq::bind_blockwise(m);
    kq::bind_int8(m);
    kq::bind_linear(m);
    kq::bind_grouped(m);
    kq::bind_optimizer(m);
}
