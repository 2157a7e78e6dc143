// The steps of one instruction set, in the order of Rule, with states to be decoded by the update or not.
#pragma once

#include "kernels/optimizer/squares.inl.h"

namespace kq::KQ_ISA {

using Rmsprop00 = Rmsprop<false, false>;
using Rmsprop01 = Rmsprop<false, true>;
using Rmsprop10 = Rmsprop<true, false>;
using Rmsprop11 = Rmsprop<true, true>;

struct Step {
    void (*step)(const StepArgs&, int64_t, int64_t);
    void (*squares)(const StepArgs&, int64_t, int64_t, Squares*);
};

#define KQ_STEP(rule, coded) {step_blocks<rule, coded>, square_blocks<rule, coded>}
#define KQ_STEPS(rule) {KQ_STEP(rule, false), KQ_STEP(rule, true)}
static constexpr Step steps[kRules][2] = {
    KQ_STEPS(Sgd),       KQ_STEPS(Momentum),  KQ_STEPS(Adam),      KQ_STEPS(Amsgrad),
    KQ_STEPS(Ademamix),  KQ_STEPS(Lion),      KQ_STEPS(Rmsprop00), KQ_STEPS(Rmsprop01),
    KQ_STEPS(Rmsprop10), KQ_STEPS(Rmsprop11), KQ_STEPS(Adagrad),   KQ_STEPS(Lamb),
};
#undef KQ_STEPS
#undef KQ_STEP

static inline const Step& step_of(const StepArgs& a) {
    return steps[static_cast<int>(a.rule)][a.coded && a.dynamic];
}

void optimizer_step(const StepArgs& a, int64_t begin, int64_t end) { step_of(a).step(a, begin, end); }

void optimizer_squares(const StepArgs& a, int64_t begin, int64_t end, Squares* squares) {
    step_of(a).squares(a, begin, end, squares);
}

}  // namespace kq::KQ_ISA
