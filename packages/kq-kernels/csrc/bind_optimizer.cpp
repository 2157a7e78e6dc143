#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <vector>

#include "arguments.h"
#include "optimizer.h"

namespace kq {
namespace {

void check_length(size_t length, const char* name, size_t expected) {
    if (length == expected) return;
    throw nb::value_error((std::string(name) + ": expected a list of " + std::to_string(expected) + ", got " +
                           std::to_string(length))
                              .c_str());
}

Rounding rounding_named(const std::string& name) {
    if (name == "nearest") return Rounding::nearest;
    if (name == "stochastic") return Rounding::stochastic;
    if (name == "corrected") return Rounding::corrected;
    throw nb::value_error(
        ("rounding: expected 'nearest', 'stochastic' or 'corrected', got '" + name + "'").c_str());
}

// A call's arguments as they are checked, and the arrays that must stay alive until the step is done.
struct Call {
    StepOptions options;
    Rounding rounding;
    nb::list corrections;
    const std::vector<int64_t>& seeds;
    std::vector<StepArgs> tensors;
    std::vector<Array> owners;

    void* keep(nb::handle object, const char* name, Access access, DTypes dtypes, int64_t size) {
        Array a = array(object, name, access, dtypes, size);
        void* data = a.data;
        if (a.owner) owners.push_back(std::move(a));
        return data;
    }
};

// All of a tensor but its states.
StepArgs& add_tensor(Call& call, nb::handle param, nb::handle grad, int64_t step) {
    if (step < 1)
        throw nb::value_error(("steps: expected numbers from 1, got " + std::to_string(step)).c_str());
    const size_t i = call.tensors.size();
    StepArgs& t = call.tensors.emplace_back();
    Array p = array(param, "params", Access::write_exchanged, kFloats);
    t.param = p.data;
    t.dtype = p.dtype;
    t.size = p.size;
    if (p.owner) call.owners.push_back(std::move(p));
    t.grad = call.keep(grad, "grads", Access::read, {t.dtype}, t.size);
    t.rule = call.options.spec->rule;
    t.states = call.options.spec->states;
    t.squares_of_gradients = call.options.spec->trust == Trust::lars;
    t.rounding = call.rounding;
    if (t.rounding != Rounding::nearest && t.dtype != DType::bfloat16) {
        throw nb::value_error("rounding: expected 'nearest' for params that are not bfloat16");
    }
    if (t.rounding == Rounding::corrected) {
        t.correction = static_cast<int8_t*>(
            call.keep(call.corrections[i], "corrections", Access::write_exchanged, {DType::int8}, t.size));
    }
    if (t.rounding == Rounding::stochastic) t.randomness = randomness(call.seeds[i], step);
    set_numbers(call.options, step, &t);
    return t;
}

Call make_call(const std::string& rule, size_t n, const nb::list& grads, const std::vector<int64_t>& steps,
               const std::vector<double>& hyper, double lr, double weight_decay, bool decoupled,
               bool maximize, double grad_scale, const std::string& rounding, const nb::list& corrections,
               const std::vector<int64_t>& seeds) {
    const StepOptions options{&rule_spec(rule), lr, weight_decay, grad_scale, decoupled, maximize, hyper};
    check_options(options);
    Call call{options, rounding_named(rounding), corrections, seeds, {}, {}};
    check_length(grads.size(), "grads", n);
    check_length(steps.size(), "steps", n);
    check_length(corrections.size(), "corrections", call.rounding == Rounding::corrected ? n : 0);
    check_length(seeds.size(), "seeds", call.rounding == Rounding::stochastic ? n : 0);
    call.tensors.reserve(n);
    return call;
}

void run(Call& call, int64_t threads) {
    const int count = thread_argument(threads);
    nb::gil_scoped_release unlocked;
    step_all(call.options, call.tensors, count);
}

void optimizer_step_8bit(const std::string& rule, nb::list params, nb::list grads, nb::list codes,
                         nb::list absmax, nb::list code_maps, const std::vector<int64_t>& steps,
                         const std::vector<double>& hyper, double lr, double weight_decay, bool decoupled,
                         bool maximize, double grad_scale, const std::string& rounding, nb::list corrections,
                         const std::vector<int64_t>& seeds, int64_t threads) {
    const size_t n = params.size();
    Call call = make_call(rule, n, grads, steps, hyper, lr, weight_decay, decoupled, maximize, grad_scale,
                          rounding, corrections, seeds);
    const RuleSpec& spec = *call.options.spec;
    const size_t states = static_cast<size_t>(spec.states);
    if (states == 0) throw nb::value_error(("rule: '" + rule + "' has no state to keep in 8 bits").c_str());
    check_length(codes.size(), "codes", states * n);
    check_length(absmax.size(), "absmax", states * n);
    check_length(code_maps.size(), "code_maps", states);
    std::vector<std::shared_ptr<const Codebook8>> books;
    bool dynamic = true;
    for (size_t k = 0; k < states; ++k) {
        books.push_back(
            codebook(array(code_maps[k], "code_maps", Access::read, {DType::float32}, 256), "code_maps"));
        const bool negatives = (spec.unsigned_states >> k & 1) == 0;
        dynamic = dynamic && books[k]->dynamic.regular && books[k]->dynamic.negatives == negatives;
    }
    for (size_t i = 0; i < n; ++i) {
        StepArgs& t = add_tensor(call, params[i], grads[i], steps[i]);
        const int64_t blocks = (t.size + kStepBlock - 1) / kStepBlock;
        t.coded = true;
        t.dynamic = dynamic;
        for (size_t k = 0; k < states; ++k) {
            StateArrays& s = t.state[k];
            s.book = books[k].get();
            s.codes = static_cast<uint8_t*>(
                call.keep(codes[k * n + i], "codes", Access::write_exchanged, {DType::uint8}, t.size));
            s.absmax = static_cast<float*>(
                call.keep(absmax[k * n + i], "absmax", Access::write_exchanged, {DType::float32}, blocks));
        }
    }
    run(call, threads);
}

void optimizer_step_32bit(const std::string& rule, nb::list params, nb::list grads, nb::list states,
                          const std::vector<int64_t>& steps, const std::vector<double>& hyper, double lr,
                          double weight_decay, bool decoupled, bool maximize, double grad_scale,
                          const std::string& rounding, nb::list corrections,
                          const std::vector<int64_t>& seeds, int64_t threads) {
    const size_t n = params.size();
    Call call = make_call(rule, n, grads, steps, hyper, lr, weight_decay, decoupled, maximize, grad_scale,
                          rounding, corrections, seeds);
    const size_t count = static_cast<size_t>(call.options.spec->states);
    check_length(states.size(), "states", count * n);
    for (size_t i = 0; i < n; ++i) {
        StepArgs& t = add_tensor(call, params[i], grads[i], steps[i]);
        t.coded = false;
        for (size_t k = 0; k < count; ++k) {
            t.state[k].values = static_cast<float*>(
                call.keep(states[k * n + i], "states", Access::write_exchanged, {DType::float32}, t.size));
        }
    }
    run(call, threads);
}

}  // namespace

void bind_optimizer(nb::module_& m) {
    using namespace nb::literals;
    m.def("optimizer_step_8bit", &optimizer_step_8bit, "rule"_a, "params"_a, "grads"_a, "codes"_a, "absmax"_a,
          "code_maps"_a, "steps"_a, "hyper"_a, "lr"_a, "weight_decay"_a = 0.0, "decoupled"_a = false,
          "maximize"_a = false, "grad_scale"_a = 1.0, "rounding"_a = "nearest", "corrections"_a = nb::list(),
          "seeds"_a = std::vector<int64_t>(), "threads"_a = 0);
    m.def("optimizer_step_32bit", &optimizer_step_32bit, "rule"_a, "params"_a, "grads"_a, "states"_a,
          "steps"_a, "hyper"_a, "lr"_a, "weight_decay"_a = 0.0, "decoupled"_a = false, "maximize"_a = false,
          "grad_scale"_a = 1.0, "rounding"_a = "nearest", "corrections"_a = nb::list(),
          "seeds"_a = std::vector<int64_t>(), "threads"_a = 0);
}

}  // namespace kq
