// Which instruction set runs: decided once at load from the processor and KQ_CPU_ISA, changeable for tests.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace kq {

// Instruction sets that this processor and operating system can run, in ascending order.
const std::vector<std::string>& available_isas();

// The one in force.
const std::string& current_isa();

// Puts `name` in force; throws std::invalid_argument, naming what is available.
void set_isa(const std::string& name);

const Kernels& kernels();

}  // namespace kq
