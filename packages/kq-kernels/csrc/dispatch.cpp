#include "dispatch.h"

#include <algorithm>
#include <atomic>
#include <stdexcept>

#include "tile_support.h"

namespace kq {
namespace {

struct Isa {
    std::string name;
    const Kernels* kernels;
};

#if KQ_X86
bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

bool has_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
#endif

std::vector<Isa> find_isas() {
    std::vector<Isa> found{{"scalar", &scalar::kernels}};
#if KQ_X86
    if (has_avx2()) found.push_back({"avx2", &avx2::kernels});
    if (has_avx512()) found.push_back({"avx512", &avx512::kernels});
    if (has_vnni()) found.push_back({"vnni", &vnni::kernels});
    if (has_vnni() && may_use_tiles()) found.push_back({"amx", &amx::kernels});
#endif
    return found;
}

const std::vector<Isa>& isas() {
    static const std::vector<Isa> found = find_isas();
    return found;
}

std::atomic<const Isa*> current{nullptr};

const Isa& in_force() {
    const Isa* isa = current.load(std::memory_order_relaxed);
    return isa != nullptr ? *isa : isas().back();
}

}  // namespace

const std::vector<std::string>& available_isas() {
    static const std::vector<std::string> names = [] {
        std::vector<std::string> out;
        for (const Isa& isa : isas()) out.push_back(isa.name);
        return out;
    }();
    return names;
}

const std::string& current_isa() { return in_force().name; }

void set_isa(const std::string& name) {
    const auto& all = isas();
    const auto found = std::find_if(all.begin(), all.end(), [&](const Isa& isa) { return isa.name == name; });
    if (found == all.end()) {
        std::string known;
        for (const Isa& isa : all) known += (known.empty() ? "" : ", ") + isa.name;
        throw std::invalid_argument("isa: '" + name + "' cannot run here; available: " + known);
    }
    current.store(&*found, std::memory_order_relaxed);
}

const Kernels& kernels() { return *in_force().kernels; }

}  // namespace kq
