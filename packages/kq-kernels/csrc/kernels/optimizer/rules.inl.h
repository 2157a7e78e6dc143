// The update rules on vectors. move(p, g, s) moves the states s by the gradient g at the parameter p, and
// direction(what move returned) is what the parameter goes against; the slow end of the arithmetic is left to
// the latter. What RuleNumbers hold for a rule is said by its constructor.
#pragma once

#include "kernels/optimizer/args.h"

namespace kq::KQ_ISA {

// Which states are never negative, hence coded by an unsigned map: bit i for state i.
template <int kCount, unsigned kUnsigned>
struct States {
    static constexpr int kStates = kCount;
    static constexpr bool has_sign(int i) { return (kUnsigned >> i & 1) == 0; }
    static f32 direction(f32 moved) { return moved; }
};

// above / (root + eps)
struct Ratio {
    f32 above, root;
};

struct Sgd : States<0, 0> {
    explicit Sgd(const RuleNumbers&) {}
    f32 move(f32, f32 g, f32*) const { return g; }
};

// torch.optim.SGD
struct Momentum : States<1, 0> {
    f32 mu, rest;
    bool first, nesterov;
    explicit Momentum(const RuleNumbers& n)
        : mu(set1(n.a[0])), rest(set1(n.a[1])), first(n.first), nesterov(n.nesterov) {}
    f32 move(f32, f32 g, f32* s) const {
        s[0] = first ? g : fma(mu, s[0], mul(rest, g));
        return nesterov ? fma(mu, s[0], g) : s[0];
    }
};

// Moving averages of gradients and squares: Kingma and Ba, arXiv 1412.6980, algorithm 1 in the form of its
// section 2, where the corrections of the bias are part of the step size and of eps.
struct Moments {
    f32 beta1, rest1, beta2, rest2, eps;
    explicit Moments(const RuleNumbers& n)
        : beta1(set1(n.a[0])),
          rest1(set1(n.a[1])),
          beta2(set1(n.a[2])),
          rest2(set1(n.a[3])),
          eps(set1(n.a[4])) {}
    f32 first(f32 m, f32 g) const { return fma(beta1, m, mul(rest1, g)); }
    f32 second(f32 v, f32 g) const { return fma(beta2, v, mul(rest2, mul(g, g))); }
    f32 direction(const Ratio& r) const { return div(r.above, add(r.root, eps)); }
};

struct Adam : States<2, 2>, Moments {
    using Moments::direction;
    explicit Adam(const RuleNumbers& n) : Moments(n) {}
    Ratio move(f32, f32 g, f32* s) const {
        s[0] = first(s[0], g);
        s[1] = second(s[1], g);
        return {s[0], sqrt(s[1])};
    }
};

struct Amsgrad : States<3, 6>, Moments {
    using Moments::direction;
    explicit Amsgrad(const RuleNumbers& n) : Moments(n) {}
    Ratio move(f32, f32 g, f32* s) const {
        s[0] = first(s[0], g);
        s[1] = second(s[1], g);
        s[2] = max(s[2], s[1]);
        return {s[0], sqrt(s[2])};
    }
};

// arXiv 2409.03137; the share of the slow average is multiplied by the first one's correction.
struct Ademamix : States<3, 4>, Moments {
    using Moments::direction;
    f32 beta3, rest3, share;
    explicit Ademamix(const RuleNumbers& n)
        : Moments(n), beta3(set1(n.a[5])), rest3(set1(n.a[6])), share(set1(n.a[7])) {}
    Ratio move(f32, f32 g, f32* s) const {
        s[0] = first(s[0], g);
        s[1] = fma(beta3, s[1], mul(rest3, g));
        s[2] = second(s[2], g);
        return {fma(share, s[1], s[0]), sqrt(s[2])};
    }
};

// arXiv 2302.06675, algorithm 2
struct Lion : States<1, 0> {
    f32 beta1, rest1, beta2, rest2;
    explicit Lion(const RuleNumbers& n)
        : beta1(set1(n.a[0])), rest1(set1(n.a[1])), beta2(set1(n.a[2])), rest2(set1(n.a[3])) {}
    f32 move(f32, f32 g, f32* s) const {
        const f32 direction = sign(fma(beta1, s[0], mul(rest1, g)));
        s[0] = fma(beta2, s[0], mul(rest2, g));
        return direction;
    }
};

// torch.optim.RMSprop; states: mean of squares, mean (if centered), momentum. Where the variance of rounded
// states would be negative, it is 0.
template <bool kCentered, bool kMomentum>
struct Rmsprop : States<1 + kCentered + kMomentum, 1> {
    f32 alpha, rest, eps, mu;
    explicit Rmsprop(const RuleNumbers& n)
        : alpha(set1(n.a[0])), rest(set1(n.a[1])), eps(set1(n.a[2])), mu(set1(n.a[3])) {}
    f32 move(f32, f32 g, f32* s) const {
        s[0] = fma(alpha, s[0], mul(rest, mul(g, g)));
        f32 variance = s[0];
        if constexpr (kCentered) {
            s[1] = fma(alpha, s[1], mul(rest, g));
            variance = max(set1(0.0f), sub(s[0], mul(s[1], s[1])));
        }
        const f32 ratio = div(g, add(sqrt(variance), eps));
        if constexpr (!kMomentum) return ratio;
        f32& moving = s[1 + kCentered];
        moving = fma(mu, moving, ratio);
        return moving;
    }
};

struct Adagrad : States<1, 1> {
    f32 eps;
    explicit Adagrad(const RuleNumbers& n) : eps(set1(n.a[0])) {}
    Ratio move(f32, f32 g, f32* s) const {
        s[0] = add(s[0], mul(g, g));
        return {g, sqrt(s[0])};
    }
    f32 direction(const Ratio& r) const { return div(r.above, add(r.root, eps)); }
};

// arXiv 1904.00962, algorithm 2, but for the trust ratio, which is part of the step size. The decay may also
// be left to the driver.
struct Lamb : States<2, 2>, Moments {
    f32 size, lambda;
    bool decays;
    explicit Lamb(const RuleNumbers& n)
        : Moments(n), size(set1(n.a[5])), lambda(set1(n.a[6])), decays(n.a[6] != 0) {}
    struct Moved {
        Ratio ratio;
        f32 p;
    };
    Moved move(f32 p, f32 g, f32* s) const {
        s[0] = first(s[0], g);
        s[1] = second(s[1], g);
        return {{s[0], sqrt(s[1])}, p};
    }
    f32 direction(const Moved& moved) const {
        const f32 corrected = mul(size, Moments::direction(moved.ratio));
        return decays ? fma(lambda, moved.p, corrected) : corrected;
    }
};

}  // namespace kq::KQ_ISA
