#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <vector>

#include "arguments.h"
#include "dispatch.h"
#include "parallel.h"

namespace kq {
namespace {

constexpr int64_t kBlocksPerThread = 64;

struct AdamOptions {
    double lr, beta1, beta2, eps, weight_decay;
    bool decoupled, maximize;
};

// The constants of one step, computed in float64 and rounded once.
Adam8Hyper hyper(const AdamOptions& o, int64_t step) {
    const double t = static_cast<double>(step);
    const double correction1 = 1.0 - std::pow(o.beta1, t);
    const double correction2 = std::sqrt(1.0 - std::pow(o.beta2, t));
    Adam8Hyper h;
    h.beta1 = static_cast<float>(o.beta1);
    h.beta2 = static_cast<float>(o.beta2);
    h.one_minus_beta1 = static_cast<float>(1.0 - o.beta1);
    h.one_minus_beta2 = static_cast<float>(1.0 - o.beta2);
    h.step_size = static_cast<float>(o.lr * correction2 / correction1);
    h.eps = static_cast<float>(o.eps * correction2);
    h.decay = o.decoupled ? static_cast<float>(1.0 - o.lr * o.weight_decay) : 1.0f;
    h.l2 = o.decoupled ? 0.0f : static_cast<float>(o.weight_decay);
    h.grad_sign = o.maximize ? -1.0f : 1.0f;
    return h;
}

void check_length(const nb::list& list, const char* name, size_t expected) {
    if (list.size() == expected) return;
    throw nb::value_error((std::string(name) + ": expected a list of " + std::to_string(expected) + ", got " +
                           std::to_string(list.size()))
                              .c_str());
}

void check_option(bool good, const char* name, const char* accepted, double value) {
    if (good) return;
    throw nb::value_error(
        (std::string(name) + ": expected a number that is " + accepted + ", got " + std::to_string(value))
            .c_str());
}

// All blocks of all tensors are one range, so that many small tensors are as parallel as one large one.
void step_all(const std::vector<Adam8Args>& tensors, int requested) {
    std::vector<int64_t> starts{0};
    for (const Adam8Args& t : tensors)
        starts.push_back(starts.back() + (t.size + kAdamBlock - 1) / kAdamBlock);
    const int threads = thread_count(starts.back(), kBlocksPerThread, requested);
    const auto kernel = kernels().adam_8bit;
    parallel_ranges(starts.back(), threads, [&](int64_t begin, int64_t end, int) {
        for (size_t i = 0; i < tensors.size(); ++i) {
            const int64_t first = std::max(begin, starts[i]);
            const int64_t last = std::min(end, starts[i + 1]);
            if (first < last) kernel(tensors[i], first - starts[i], last - starts[i]);
        }
    });
}

void optimizer_step_8bit(const std::string& rule, nb::list params, nb::list grads, nb::list codes,
                         nb::list absmax, nb::list code_maps, const std::vector<int64_t>& steps, double lr,
                         double beta1, double beta2, double eps, double weight_decay, bool decoupled,
                         bool maximize, int64_t threads) {
    if (rule != "adam") throw nb::value_error(("rule: expected 'adam', got '" + rule + "'").c_str());
    const size_t n = params.size();
    check_length(grads, "grads", n);
    check_length(codes, "codes", 2 * n);
    check_length(absmax, "absmax", 2 * n);
    check_length(code_maps, "code_maps", 2);
    if (steps.size() != n) {
        throw nb::value_error(
            ("steps: expected a list of " + std::to_string(n) + ", got " + std::to_string(steps.size()))
                .c_str());
    }
    check_option(beta1 >= 0 && beta1 < 1, "beta1", "at least 0 and below 1", beta1);
    check_option(beta2 >= 0 && beta2 < 1, "beta2", "at least 0 and below 1", beta2);
    check_option(std::isfinite(lr), "lr", "finite", lr);
    check_option(std::isfinite(eps) && eps >= 0, "eps", "finite and not negative", eps);
    check_option(std::isfinite(weight_decay), "weight_decay", "finite", weight_decay);
    const AdamOptions options{lr, beta1, beta2, eps, weight_decay, decoupled, maximize};
    const Codebook8 map1 =
        codebook(array(code_maps[0], "code_maps", Access::read, {DType::float32}, 256), "code_maps");
    const Codebook8 map2 =
        codebook(array(code_maps[1], "code_maps", Access::read, {DType::float32}, 256), "code_maps");

    std::vector<Array> kept;
    std::vector<Adam8Args> tensors;
    kept.reserve(6 * n);
    tensors.reserve(n);
    const auto keep = [&](Array a) -> const Array& { return kept.emplace_back(std::move(a)); };
    for (size_t i = 0; i < n; ++i) {
        if (steps[i] < 1) {
            throw nb::value_error(
                ("steps: expected numbers from 1, got " + std::to_string(steps[i])).c_str());
        }
        const Array& param = keep(array(params[i], "params", Access::write, kFloats));
        const int64_t blocks = (param.size + kAdamBlock - 1) / kAdamBlock;
        const Array& grad = keep(array(grads[i], "grads", Access::read, {param.dtype}, param.size));
        const Array& codes1 = keep(array(codes[i], "codes", Access::write, {DType::uint8}, param.size));
        const Array& codes2 = keep(array(codes[n + i], "codes", Access::write, {DType::uint8}, param.size));
        const Array& absmax1 = keep(array(absmax[i], "absmax", Access::write, {DType::float32}, blocks));
        const Array& absmax2 = keep(array(absmax[n + i], "absmax", Access::write, {DType::float32}, blocks));
        tensors.push_back({param.data, grad.data, param.dtype, codes1.as<uint8_t>(), codes2.as<uint8_t>(),
                           absmax1.as<float>(), absmax2.as<float>(), param.size, &map1, &map2,
                           hyper(options, steps[i])});
    }
    const int count = thread_argument(threads);
    nb::gil_scoped_release unlocked;
    step_all(tensors, count);
}

}  // namespace

void bind_optimizer(nb::module_& m) {
    using namespace nb::literals;
    m.def("optimizer_step_8bit", &optimizer_step_8bit, "rule"_a, "params"_a, "grads"_a, "codes"_a, "absmax"_a,
          "code_maps"_a, "steps"_a, "lr"_a, "beta1"_a, "beta2"_a, "eps"_a, "weight_decay"_a, "decoupled"_a,
          "maximize"_a, "threads"_a = 0);
}

}  // namespace kq
