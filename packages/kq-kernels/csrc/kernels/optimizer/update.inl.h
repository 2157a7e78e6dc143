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
    // The states of the block before, to be encoded.
    struct Encoding {
        const float* values;
        const Codebook8* book;
        float scale;
        uint8_t* codes;
    } encoding[kMostStates];
    // What comes later, to be fetched meanwhile: parameters, gradients, states.
    struct Stream {
        const char* from;
        int64_t itemsize;
    } ahead[2 + kMostStates];
    const RuleNumbers* numbers;
    bool directions;
};

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
    [[gnu::always_inline]] f32 read(int64_t i) const { return mul(decode(codes + i), scale); }
    [[gnu::always_inline]] void write(int64_t i, f32 v) {
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
    [[gnu::always_inline]] void read(int64_t i, f32* s) const {
        s[kState] = here.read(i);
        others.read(i, s);
    }
    [[gnu::always_inline]] void write(int64_t i, const f32* s) {
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

// The encoders of all states of a rule, likewise. Without kEncodes they do nothing.
template <class Rule, bool kEncodes, int kState>
struct Encoders {
    using Encoder = DynamicEncoder<Rule::has_sign(kState)>;
    Encoder encoder;
    const float* values;
    uint8_t* codes;
    typename Encoder::Ranks ranks;
    Encoders<Rule, kEncodes, kState + 1> others;
    explicit Encoders(const UpdateArgs& a)
        : encoder(*a.encoding[kState].book, a.encoding[kState].scale),
          values(a.encoding[kState].values),
          codes(a.encoding[kState].codes),
          others(a) {}
    [[gnu::always_inline]] void rank(int64_t i, int part) {
        encoder.rank(values + i, part, ranks);
        others.rank(i, part);
    }
    [[gnu::always_inline]] void write(int64_t i) const {
        encoder.write(ranks, values + i, codes + i);
        others.write(i);
    }
};

template <class Rule, bool kEncodes, int kState>
    requires(!kEncodes || kState == Rule::kStates)
struct Encoders<Rule, kEncodes, kState> {
    explicit Encoders(const UpdateArgs&) {}
    void rank(int64_t, int) {}
    void write(int64_t) const {}
};

// The vectors that are handled between two places where codes are written.
constexpr int kParts = DynamicEncoder<true>::kParts;
constexpr int64_t kPartsUnit = kParts * W;

template <class Rule>
[[gnu::always_inline]] static inline void prefetch_part(const UpdateArgs& a, int64_t i) {
#pragma GCC unroll 5
    for (int k = 0; k < 2 + Rule::kStates; ++k) {
        const UpdateArgs::Stream& s = a.ahead[k];
        const char* from = s.from + i * s.itemsize;
        prefetch(from);
        if (s.itemsize == 1) continue;
        for (int64_t byte = 64; byte < kPartsUnit * s.itemsize; byte += 64) prefetch(from + byte);
    }
}

// A processor looks ahead by two or three vectors only, while the chain from codes over a root and a quotient
// to a parameter takes as long as five. So three vectors are under way: the codes of one are decoded, the
// states of the one before it are moved, and the parameter of the first is. Encoding the states of another
// block fills what the root and the quotient leave idle.
template <class Rule, bool kCoded, bool kEncodes>
[[gnu::always_inline]] static inline void update(UpdateArgs& a) {
    const Rule rule(*a.numbers);
    StateSources<Rule, kCoded, 0> states(a);
    const float *const p = a.p, *const g = a.g;
    float* const out = a.out;
    const int64_t n = a.n;
    f32 s[Rule::kStates + 1];
    if (a.directions) {  // of a first pass, which moves nothing
        for (int64_t i = 0; i < n; i += W) {
            if (i % kPartsUnit == 0) prefetch_part<Rule>(a, i);
            states.read(i, s);
            store(out + i, rule.direction(rule.move(load(p + i), load(g + i), s)));
        }
        return;
    }
    const f32 decay = set1(a.numbers->decay), step = set1(-a.numbers->step);
    const auto move = [&](int64_t i) __attribute__((always_inline)) {
        const auto moved = rule.move(load(p + i), load(g + i), s);
        states.write(i, s);
        return moved;
    };
    const auto finish = [&](int64_t i, const auto& moved) __attribute__((always_inline)) {
        store(out + i, fma(step, rule.direction(moved), mul(load(p + i), decay)));
    };
    Encoders<Rule, kEncodes, 0> encoders(a);
    states.read(0, s);
    auto moved = move(0);
    states.read(W, s);
    const auto parts = [&]<bool kLast>(int64_t i) __attribute__((always_inline)) {
        prefetch_part<Rule>(a, i);
#pragma GCC unroll 4
        for (int part = 0; part < kParts; ++part, i += W) {
            asm volatile("");  // Keeps compilers from moving the quotient up to the root that it waits for.
            finish(i, moved);
            if (!kLast || part < kParts - 1) moved = move(i + W);
            if (!kLast || part < kParts - 2) states.read(i + 2 * W, s);
            encoders.rank(i, part);
        }
        encoders.write(i - kPartsUnit);
    };
    int64_t i = 0;
    for (; i + kPartsUnit < n; i += kPartsUnit) parts.template operator()<false>(i);
    parts.template operator()<true>(i);
    states.finish(a);
}

}  // namespace kq::KQ_ISA
