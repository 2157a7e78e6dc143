#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "arguments.h"
#include "dispatch.h"

NB_MODULE(_native, m) {
    namespace nb = nanobind;
    using namespace nb::literals;
    m.attr("__version__") = KQ_VERSION;
    m.attr("compiler") = __VERSION__;
    m.def("available_isas", &kq::available_isas);
    m.def("isa", &kq::current_isa);
    m.def("set_isa", &kq::set_isa, "name"_a);
    kq::bind_blockwise(m);
    kq::bind_linear(m);
    kq::bind_optimizer(m);
}
