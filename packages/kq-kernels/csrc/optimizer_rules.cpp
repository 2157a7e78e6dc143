#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "optimizer.h"

namespace kq {
namespace {

using Number = RuleSpec::Number;

constexpr Number kBeta1{"beta1", Number::decay}, kBeta2{"beta2", Number::decay};
constexpr Number kAlpha{"alpha", Number::decay}, kEps{"eps", Number::not_negative};
constexpr Number kMomentum{"momentum", Number::not_negative}, kDampening{"dampening", Number::finite};
constexpr Number kNesterov{"nesterov", Number::flag}, kMaxUnorm{"max_unorm", Number::positive};

const std::vector<RuleSpec>& specs() {
    static const std::vector<RuleSpec> all = {
        {"sgd", Rule::sgd, Trust::none, 0, 0, {}},
        {"momentum", Rule::momentum, Trust::none, 1, 0, {kMomentum, kDampening, kNesterov}},
        {"adam", Rule::adam, Trust::none, 2, 2, {kBeta1, kBeta2, kEps}},
        {"amsgrad", Rule::amsgrad, Trust::none, 3, 6, {kBeta1, kBeta2, kEps}},
        {"ademamix",
         Rule::ademamix,
         Trust::none,
         3,
         4,
         {kBeta1,
          kBeta2,
          {"beta3", Number::decay},
          {"alpha", Number::not_negative},
          kEps,
          {"t_alpha", Number::not_negative},
          {"t_beta3", Number::not_negative}}},
        {"lion", Rule::lion, Trust::none, 1, 0, {kBeta1, kBeta2}},
        {"rmsprop", Rule::rmsprop, Trust::none, 1, 1, {kAlpha, kEps}},
        {"rmsprop_momentum", Rule::rmsprop_momentum, Trust::none, 2, 1, {kAlpha, kEps, kMomentum}},
        {"rmsprop_centered", Rule::rmsprop_centered, Trust::none, 2, 1, {kAlpha, kEps}},
        {"rmsprop_centered_momentum",
         Rule::rmsprop_centered_momentum,
         Trust::none,
         3,
         1,
         {kAlpha, kEps, kMomentum}},
        {"adagrad", Rule::adagrad, Trust::none, 1, 1, {{"lr_decay", Number::not_negative}, kEps}},
        {"lamb", Rule::lamb, Trust::lamb, 2, 2, {kBeta1, kBeta2, kEps, {"bias_correction", Number::flag}}},
        {"lamb_clipped", Rule::lamb, Trust::clip, 2, 2, {kBeta1, kBeta2, kEps, kMaxUnorm}},
        {"lars",
         Rule::momentum,
         Trust::lars,
         1,
         0,
         {kMomentum, kDampening, kNesterov, kEps, {"trust_coefficient", Number::not_negative}}},
        {"lars_clipped", Rule::momentum, Trust::clip, 1, 0, {kMomentum, kDampening, kNesterov, kMaxUnorm}},
    };
    return all;
}

[[noreturn]] void refuse(const std::string& name, const char* accepted, double value) {
    throw std::invalid_argument(name + ": expected a number that is " + accepted + ", got " +
                                std::to_string(value));
}

void check_number(const Number& number, double v) {
    const bool finite = std::isfinite(v);
    switch (number.range) {
        case Number::decay:
            if (!(v >= 0 && v < 1)) refuse(number.name, "at least 0 and below 1", v);
            return;
        case Number::not_negative:
            if (!finite || v < 0) refuse(number.name, "finite and not negative", v);
            return;
        case Number::positive:
            if (!finite || v <= 0) refuse(number.name, "finite and above 0", v);
            return;
        case Number::finite:
            if (!finite) refuse(number.name, "finite", v);
            return;
        case Number::flag:
            if (v != 0 && v != 1) refuse(number.name, "0 or 1", v);
    }
}

float rounded(double v) { return static_cast<float>(v); }

// The decay of AdEMAMix's slow average at step t: its half-life grows linearly (arXiv 2409.03137, equation
// 5).
double slow_decay(double t, double beta1, double beta3, double t_beta3) {
    if (t >= t_beta3 || beta3 == 0) return beta3;
    const double part = t / t_beta3;
    if (beta1 == 0) return std::pow(beta3, 1 / part);  // the limit of what follows
    const double log1 = std::log(beta1), log3 = std::log(beta3);
    return std::min(std::exp(log1 * log3 / ((1 - part) * log3 + part * log1)), beta3);
}

struct Corrections {
    double first = 1, second = 1;  // 1 - beta1^t, and the root of 1 - beta2^t
};

// The numbers of Moments; the step size and eps take the corrections in.
void set_moments(double beta1, double beta2, double eps, const Corrections& c, RuleNumbers* n) {
    n->a[0] = rounded(beta1);
    n->a[1] = rounded(1 - beta1);
    n->a[2] = rounded(beta2);
    n->a[3] = rounded(1 - beta2);
    n->a[4] = rounded(eps * c.second);
}

}  // namespace

const RuleSpec& rule_spec(const std::string& name) {
    std::string known;
    for (const RuleSpec& spec : specs()) {
        if (name == spec.name) return spec;
        known += (known.empty() ? "'" : "', '") + std::string(spec.name);
    }
    throw std::invalid_argument("rule: expected one of " + known + "', got '" + name + "'");
}

void check_options(const StepOptions& o) {
    if (o.hyper.size() != o.spec->numbers.size()) {
        throw std::invalid_argument("hyper: expected " + std::to_string(o.spec->numbers.size()) +
                                    " numbers for rule '" + o.spec->name + "', got " +
                                    std::to_string(o.hyper.size()));
    }
    for (size_t i = 0; i < o.hyper.size(); ++i) check_number(o.spec->numbers[i], o.hyper[i]);
    check_number({"lr", Number::finite}, o.lr);
    check_number({"weight_decay", Number::finite}, o.weight_decay);
    check_number({"grad_scale", Number::positive}, o.grad_scale);
    if (o.decoupled && o.spec->rule == Rule::momentum && o.spec->trust != Trust::none) {
        throw std::invalid_argument("decoupled: expected False for rule '" + std::string(o.spec->name) +
                                    "', got True");
    }
}

void set_numbers(const StepOptions& o, int64_t step, StepArgs* args) {
    const double t = static_cast<double>(step);
    const double* h = o.hyper.data();
    RuleNumbers& n = args->numbers;
    double lr = o.lr;
    n = {};
    // LAMB's decay is part of its direction.
    n.decay = o.decoupled && o.spec->trust != Trust::lamb ? rounded(1 - o.lr * o.weight_decay) : 1.0f;
    args->gradient = {rounded(o.grad_scale), o.maximize ? -1.0f : 1.0f,
                      o.decoupled ? 0.0f : rounded(o.weight_decay), 1.0f};
    const auto corrections = [&] {
        return Corrections{1 - std::pow(h[0], t), std::sqrt(1 - std::pow(h[1], t))};
    };
    switch (o.spec->rule) {
        case Rule::sgd: break;
        case Rule::momentum:
            n.a[0] = rounded(h[0]);
            n.a[1] = rounded(1 - h[1]);
            n.nesterov = h[2] != 0;
            n.first = step == 1;
            break;
        case Rule::adam:
        case Rule::amsgrad: {
            const Corrections c = corrections();
            set_moments(h[0], h[1], h[2], c, &n);
            lr *= c.second / c.first;
            break;
        }
        case Rule::ademamix: {
            const Corrections c = corrections();
            const double slow = slow_decay(t, h[0], h[2], h[6]);
            const double share = h[5] != 0 ? std::min(t * h[3] / h[5], h[3]) : h[3];
            set_moments(h[0], h[1], h[4], c, &n);
            n.a[5] = rounded(slow);
            n.a[6] = rounded(1 - slow);
            n.a[7] = rounded(share * c.first);
            lr *= c.second / c.first;
            break;
        }
        case Rule::lion:
            for (int i = 0; i < 2; ++i) {
                n.a[2 * i] = rounded(h[i]);
                n.a[2 * i + 1] = rounded(1 - h[i]);
            }
            break;
        case Rule::rmsprop:
        case Rule::rmsprop_momentum:
        case Rule::rmsprop_centered:
        case Rule::rmsprop_centered_momentum:
            n.a[0] = rounded(h[0]);
            n.a[1] = rounded(1 - h[0]);
            n.a[2] = rounded(h[1]);
            n.a[3] = o.hyper.size() > 2 ? rounded(h[2]) : 0.0f;
            break;
        case Rule::adagrad:
            n.a[0] = rounded(h[1]);
            lr /= 1 + (t - 1) * h[0];
            break;
        case Rule::lamb: {
            const bool corrected = o.spec->trust == Trust::clip || h[3] != 0;
            const Corrections c = corrected ? corrections() : Corrections{};
            set_moments(h[0], h[1], h[2], c, &n);
            n.a[5] = rounded(c.second / c.first);
            n.a[6] = o.decoupled && o.spec->trust == Trust::lamb ? rounded(o.weight_decay) : 0.0f;
            break;
        }
    }
    n.step = rounded(lr);
}

Randomness randomness(int64_t seed, int64_t t) {
    // The finalizer of SplitMix64.
    uint64_t z = static_cast<uint64_t>(seed) + 0x9e3779b97f4a7c15u * static_cast<uint64_t>(t);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return {static_cast<uint32_t>(z), static_cast<uint32_t>(z >> 32)};
}

}  // namespace kq
