// One rule over the elements of a block: states are decoded and moved in registers, and their new values go
// where the driver encodes them from.
#pragma once

#include "kernels/optimizer/rules.inl.h"

namespace kq::KQ_ISA {

// What an update reads and writes; n is a multiple of kUpdateUnit.
struct UpdateArgs {
    const float* p;
    const float* g;
    float* out;  // new parameters, or directions
    int64_t n;
    struct State {
        const uint8_t* codes;  // to decode with book and scale; else the state is read from values
        const Codebook8* book;
        float scale;
        float* values;     // of the new state
        uint32_t largest;  // out: bits of its largest magnitude, of a coded state
    } state[kMostStates];
    const RuleNumbers* numbers;
    bool directions;
};

using Update = void (*)(UpdateArgs&);

// All loops over n take whole vectors, and codes are encoded by this many.
constexpr int64_t kUpdateUnit = 64;

template <bool kCoded, bool kNegatives>
struct StateSource;

template <bool kNegatives>
struct StateSource<true, kNegatives> {
    DynamicDecoder<kNegatives> decode;
    f32 scale;
    AbsMax<float> largest;
    const uint8_t* codes;
    float* values;
    explicit StateSource(const UpdateArgs::State& s)
        : decode(*s.book), scale(set1(s.scale)), codes(s.codes), values(s.values) {}
    f32 read(int64_t i) const { return mul(decode(codes + i), scale); }
    void write(int64_t i, f32 v) {
        largest.update(v);
        store(values + i, v);
    }
    uint32_t bits() const { return largest.value(); }
};

template <bool kNegatives>
struct StateSource<false, kNegatives> {
    float* values;
    explicit StateSource(const UpdateArgs::State& s) : values(s.values) {}
    f32 read(int64_t i) const { return load(values + i); }
    void write(int64_t i, f32 v) { store(values + i, v); }
    uint32_t bits() const { return 0; }
};

// The sources of all states of a rule, one after the other.
template <class Rule, bool kCoded, int kState>
struct StateSources {
    StateSource<kCoded, Rule::has_sign(kState)> here;
    StateSources<Rule, kCoded, kState + 1> others;
    explicit StateSources(const UpdateArgs& a) : here(a.state[kState]), others(a) {}
    void read(int64_t i, f32* s) const {
        s[kState] = here.read(i);
        others.read(i, s);
    }
    void write(int64_t i, const f32* s) {
        here.write(i, s[kState]);
        others.write(i, s);
    }
    void finish(UpdateArgs& a) const {
        a.state[kState].largest = here.bits();
        others.finish(a);
    }
};

template <class Rule, bool kCoded, int kState>
    requires(kState == Rule::kStates)
struct StateSources<Rule, kCoded, kState> {
    explicit StateSources(const UpdateArgs&) {}
    void read(int64_t, f32*) const {}
    void write(int64_t, const f32*) {}
    void finish(UpdateArgs&) const {}
};

// A processor looks ahead by two or three vectors only, while the chain from codes over a root and a quotient
// to a parameter takes as long as five. So three vectors are under way: the codes of one are decoded, the
// states of the one before it are moved, and the parameter of the first is.
template <class Rule, bool kCoded>
static void update(UpdateArgs& a) {
    const Rule rule(*a.numbers);
    StateSources<Rule, kCoded, 0> states(a);
    const float *const p = a.p, *const g = a.g;
    float* const out = a.out;
    const int64_t n = a.n;
    f32 s[Rule::kStates + 1];
    if (a.directions) {  // of a first pass, which moves nothing
        for (int64_t i = 0; i < n; i += W) {
            states.read(i, s);
            store(out + i, rule.direction(rule.move(load(p + i), load(g + i), s)));
        }
        return;
    }
    const f32 decay = set1(a.numbers->decay), step = set1(-a.numbers->step);
    const auto move = [&](int64_t i) {
        const auto moved = rule.move(load(p + i), load(g + i), s);
        states.write(i, s);
        return moved;
    };
    const auto finish = [&](int64_t i, const auto& moved) {
        store(out + i, fma(step, rule.direction(moved), mul(load(p + i), decay)));
    };
    states.read(0, s);
    auto moved = move(0);
    states.read(W, s);
    int64_t i = 0;
    for (; i + 2 * W < n; i += W) {
        finish(i, moved);
        moved = move(i + W);
        states.read(i + 2 * W, s);
    }
    finish(i, moved);
    finish(i + W, move(i + W));
    states.finish(a);
}

}  // namespace kq::KQ_ISA
