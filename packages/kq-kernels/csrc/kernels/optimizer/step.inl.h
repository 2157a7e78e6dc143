// A range of blocks of one tensor through an optimizer step. A block of float32 is used where it lies;
// anything else goes through buffers of one block.
#pragma once

#include "kernels/optimizer/params.inl.h"
#include "kernels/optimizer/update.inl.h"
#include "kernels/quantize_blockwise/encode.inl.h"

namespace kq::KQ_ISA {

// A block of a step: where it starts and how long it is.
struct StepRange {
    int64_t block, start, n, padded;
    bool whole() const { return n == padded; }
};

static inline StepRange step_range(const StepArgs& a, int64_t block) {
    const int64_t start = block * kStepBlock;
    const int64_t n = a.size - start < kStepBlock ? a.size - start : kStepBlock;
    return {block, start, n, (n + kUpdateUnit - 1) / kUpdateUnit * kUpdateUnit};
}

// A block at work, with memory for what cannot stay where it lies.
struct StepWork {
    StepRange range;
    UpdateArgs update;
    bool in_place;  // parameters and float32 states are read and written where they lie
    alignas(64) float p[kStepBlock];
    alignas(64) float g[kStepBlock];
    alignas(64) float out[kStepBlock];
    alignas(64) float state[kMostStates][kStepBlock];
    alignas(64) uint8_t codes[kMostStates][kStepBlock];
};

static inline void load_params(const StepArgs& a, const StepRange& r, float* to) {
    std::memset(to, 0, sizeof(float) * kStepBlock);
    if (a.rounding == Rounding::corrected) {
        widen_corrected(static_cast<const bf16*>(a.param) + r.start, a.correction + r.start, r.n, to);
        return;
    }
    with_float_type(a.dtype,
                    [&](auto t) { widen_n(static_cast<const decltype(t)*>(a.param) + r.start, r.n, to); });
}

static inline void store_params(const StepArgs& a, const StepRange& r, const float* from) {
    bf16* brain = static_cast<bf16*>(a.param) + r.start;
    switch (a.rounding) {
        case Rounding::stochastic:
            return narrow_stochastic(from, r.n, static_cast<uint64_t>(r.start), a.randomness, brain);
        case Rounding::corrected: return narrow_corrected(from, r.n, brain, a.correction + r.start);
        case Rounding::nearest: break;
    }
    with_float_type(a.dtype,
                    [&](auto t) { narrow_n(from, r.n, static_cast<decltype(t)*>(a.param) + r.start); });
}

static inline void load_gradients(const StepArgs& a, const StepRange& r, const float* p, float* to) {
    std::memset(to, 0, sizeof(float) * kStepBlock);
    with_float_type(a.dtype,
                    [&](auto t) { widen_n(static_cast<const decltype(t)*>(a.grad) + r.start, r.n, to); });
    if (a.gradient.unchanged()) return;
    const GradientNumbers& n = a.gradient;
    const f32 scale = set1(n.scale), sign = set1(n.sign), coupled = set1(n.coupled), factor = set1(n.factor);
    for (int64_t i = 0; i < r.padded; i += W) {
        f32 g = load(to + i);
        if (n.scale != 1) g = div(g, scale);
        g = mul(sign, g);
        if (n.coupled != 0) g = fma(coupled, load(p + i), g);
        if (n.factor != 1) g = mul(factor, g);
        store(to + i, g);
    }
}

static inline void find_inputs(const StepArgs& a, StepWork& w) {
    const StepRange& r = w.range;
    w.in_place = a.dtype == DType::float32 && r.whole();
    w.update.n = r.padded;
    w.update.p = static_cast<const float*>(a.param) + r.start;
    w.update.g = static_cast<const float*>(a.grad) + r.start;
    w.update.out = w.in_place ? static_cast<float*>(a.param) + r.start : w.out;
    if (!w.in_place) {
        load_params(a, r, w.p);
        w.update.p = w.p;
    }
    if (!w.in_place || !a.gradient.unchanged()) {
        load_gradients(a, r, w.update.p, w.g);
        w.update.g = w.g;
    }
}

// The states: codes that the update decodes, values that it finds, or codes decoded here because their map is
// not a dynamic one.
static inline void find_states(const StepArgs& a, StepWork& w) {
    const StepRange& r = w.range;
    for (int k = 0; k < kMostStates && k < a.states; ++k) {
        const StateArrays& s = a.state[k];
        UpdateArgs::State& to = w.update.state[k];
        to.values = w.state[k];
        if (!a.coded && w.in_place) {
            to.values = s.values + r.start;
            continue;
        }
        if (!a.coded) {
            std::memset(to.values, 0, sizeof w.state[k]);
            std::memcpy(to.values, s.values + r.start, static_cast<size_t>(r.n) * sizeof(float));
            continue;
        }
        to.codes = s.codes + r.start;
        to.book = s.book;
        to.scale = s.absmax[r.block];
        if (!r.whole()) {
            std::memset(w.codes[k], s.book->zero, sizeof w.codes[k]);
            std::memcpy(w.codes[k], to.codes, static_cast<size_t>(r.n));
            to.codes = w.codes[k];
        }
        if (a.dynamic) continue;
        const Table256 values(s.book->values);
        for (int64_t i = 0; i < r.padded; i += W) {
            store(to.values + i, mul(values[load_u8(to.codes + i)], set1(to.scale)));
        }
    }
}

// The update does not know which elements are padding, or that it works for a coded state.
static inline float new_scale(const StepArgs& a, const StepWork& w, int k) {
    const UpdateArgs::State& state = w.update.state[k];
    const bool known = a.dynamic && w.range.whole();
    return known ? absmax_from_bits(state.largest) : block_absmax(state.values, w.range.n);
}

// Puts the new states where they belong.
static inline void keep_states(const StepArgs& a, const StepWork& w) {
    const StepRange& r = w.range;
    if (!a.coded && w.in_place) return;
    for (int k = 0; k < kMostStates && k < a.states; ++k) {
        const StateArrays& s = a.state[k];
        const float* values = w.update.state[k].values;
        if (!a.coded) {
            std::memcpy(s.values + r.start, values, static_cast<size_t>(r.n) * sizeof(float));
            continue;
        }
        const float scale = new_scale(a, w, k);
        s.absmax[r.block] = scale;
        const bool negatives = !a.dynamic || s.book->dynamic.negatives;
        encode_block_8bit(values, r.n, scale, *s.book, s.codes + r.start, negatives);
    }
}

// Has the next update, u, do so. False if it cannot.
static inline bool keep_states_during(const StepArgs& a, const StepWork& w, UpdateArgs& u) {
    if (!a.coded || !a.dynamic || !w.range.whole() || u.n != w.range.n) return false;
    for (int k = 0; k < kMostStates && k < a.states; ++k) {
        const float scale = new_scale(a, w, k);
        if (!has_ranks(a.state[k].book->dynamic, scale)) return false;
        u.encoding[k] = {w.update.state[k].values, a.state[k].book, scale, a.state[k].codes + w.range.start};
    }
    for (int k = 0; k < kMostStates && k < a.states; ++k)
        a.state[k].absmax[w.range.block] = u.encoding[k].scale;
    return true;
}

// Blocks ahead that are fetched. A page, as in segments.inl.h, is too much for four streams: it leaves no
// room in the level-1 cache for the buffers.
constexpr int64_t kBlocksAhead = 2;

static inline void find_ahead(const StepArgs& a, int64_t start, UpdateArgs& u) {
    const int64_t ahead = start + kBlocksAhead * kStepBlock;
    const auto stream = [&](const void* from, int64_t itemsize) {
        return UpdateArgs::Stream{static_cast<const char*>(from) + ahead * itemsize, itemsize};
    };
    u.ahead[0] = stream(a.param, itemsize(a.dtype));
    u.ahead[1] = stream(a.grad, itemsize(a.dtype));
    for (int k = 0; k < kMostStates && k < a.states; ++k) {
        u.ahead[2 + k] = a.coded ? stream(a.state[k].codes, 1) : stream(a.state[k].values, sizeof(float));
    }
}

static inline void start_work(const StepArgs& a, StepWork& w, int64_t block) {
    w.range = step_range(a, block);
    w.update.numbers = &a.numbers;
    find_ahead(a, w.range.start, w.update);
    find_inputs(a, w);
    find_states(a, w);
}

template <class Rule, bool kCoded>
static void step_blocks(const StepArgs& a, int64_t begin, int64_t end) {
    constexpr bool kMeanwhile = kCoded && DynamicEncoder<true>::kSpare;
    // States are encoded during the next block's update, or while it is still in the processor's pipeline.
    StepWork work[2];
    for (int64_t block = begin; block < end; ++block) {
        StepWork &w = work[block % 2], &before = work[(block + 1) % 2];
        start_work(a, w, block);
        w.update.directions = false;
        const bool encodes = kMeanwhile && block > begin && keep_states_during(a, before, w.update);
        if (encodes) {
            update<Rule, kCoded, kMeanwhile>(w.update);
        } else {
            update<Rule, kCoded, false>(w.update);
        }
        if (!w.in_place) store_params(a, w.range, w.out);
        if (block > begin && !encodes) keep_states(a, before);
    }
    if (begin < end) keep_states(a, work[(end - 1) % 2]);
}

}  // namespace kq::KQ_ISA
