// The optimizer steps: rules by name with their numbers, and the driver over a list of tensors.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace kq {

// What a step compares over a whole parameter, to scale itself.
enum class Trust { none, lamb, lars, clip };

struct RuleSpec {
    const char* name;
    Rule rule;  // of the kernels
    Trust trust;
    int states;
    unsigned unsigned_states;  // bit i: state i is never negative
    struct Number {
        const char* name;
        enum Range { decay, not_negative, positive, finite, flag } range;
    };
    std::vector<Number> numbers;  // hyperparameters, in this order
};

// Throws std::invalid_argument for an unknown name.
const RuleSpec& rule_spec(const std::string& name);

struct StepOptions {
    const RuleSpec* spec;
    double lr, weight_decay, grad_scale;
    bool decoupled, maximize;
    std::vector<double> hyper;
};

// Throws std::invalid_argument, naming what is out of range.
void check_options(const StepOptions& options);

// The numbers of step t, from 1. Those of a trust ratio are left to step_all.
void set_numbers(const StepOptions& options, int64_t t, StepArgs* args);

// The key of the random numbers of a tensor in step t.
Randomness randomness(int64_t seed, int64_t t);

void step_all(const StepOptions& options, std::vector<StepArgs>& tensors, int threads);

}  // namespace kq
