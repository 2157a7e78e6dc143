// What the kernels of an optimizer step are given.
#pragma once

#include "codebooks.h"
#include "types.h"

namespace kq {

// In the order of the tables of kernels (kernels/optimizer/table.inl.h).
enum class Rule {
    sgd,
    momentum,
    adam,
    amsgrad,
    ademamix,
    lion,
    rmsprop,
    rmsprop_momentum,
    rmsprop_centered,
    rmsprop_centered_momentum,
    adagrad,
    lamb,
};
constexpr int kRules = 12;
constexpr int kMostStates = 3;

// Elements of 8-bit state that share a scale, over the flattened parameter; also the unit of work.
constexpr int64_t kStepBlock = 256;

// The numbers of a rule in one step, computed in float64 and rounded once. What they are is said where the
// rule is written (kernels/optimizer/rules.inl.h).
struct RuleNumbers {
    float a[8];
    bool first;  // the first step
    bool nesterov;
    float decay;  // factor on the parameter: 1 - lr * weight_decay if the decay is decoupled
    float step;   // p = decay * p - step * direction
};

// Storing a parameter that is known in float32.
enum class Rounding { nearest, stochastic, corrected };

struct Randomness {
    uint32_t low, high;  // key of this tensor in this step
};

// What happens to a gradient before the rule: factor * (sign * g / scale + coupled * p).
struct GradientNumbers {
    float scale = 1, sign = 1, coupled = 0, factor = 1;
    bool unchanged() const { return scale == 1 && sign == 1 && coupled == 0 && factor == 1; }
};

struct StateArrays {
    uint8_t* codes;  // 8-bit state
    float* absmax;
    const Codebook8* book;
    float* values;  // float32 state
};

struct StepArgs {
    void* param;
    const void* grad;
    int8_t* correction;  // for Rounding::corrected
    DType dtype;
    int64_t size;
    Rule rule;
    int states;
    bool coded;    // 8-bit state
    bool dynamic;  // all its maps are dynamic, with and without negatives as the rule expects
    StateArrays state[kMostStates];
    Rounding rounding;
    Randomness randomness;
    GradientNumbers gradient;
    RuleNumbers numbers;
    bool squares_of_gradients;  // a first pass sums those instead of the squares of directions
};

// Sums of squares over a range of a tensor; the second of directions or of gradients.
struct Squares {
    double param = 0, other = 0;
};

}  // namespace kq
