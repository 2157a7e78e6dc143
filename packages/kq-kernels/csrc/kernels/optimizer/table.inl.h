// The updates of one instruction set, in the order of Rule, with float32 state and with 8-bit state.
#pragma once

#include "kernels/optimizer/squares.inl.h"

namespace kq::KQ_ISA {

using Rmsprop00 = Rmsprop<false, false>;
using Rmsprop01 = Rmsprop<false, true>;
using Rmsprop10 = Rmsprop<true, false>;
using Rmsprop11 = Rmsprop<true, true>;

#define KQ_UPDATES(rule) {update<rule, false>, update<rule, true>}
extern const Update updates[kRules][2] = {
    KQ_UPDATES(Sgd),       KQ_UPDATES(Momentum),  KQ_UPDATES(Adam),      KQ_UPDATES(Amsgrad),
    KQ_UPDATES(Ademamix),  KQ_UPDATES(Lion),      KQ_UPDATES(Rmsprop00), KQ_UPDATES(Rmsprop01),
    KQ_UPDATES(Rmsprop10), KQ_UPDATES(Rmsprop11), KQ_UPDATES(Adagrad),   KQ_UPDATES(Lamb),
};
#undef KQ_UPDATES

}  // namespace kq::KQ_ISA
