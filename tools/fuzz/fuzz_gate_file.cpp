// libFuzzer target of the gate-file reader: any bytes are either refused with gate_error or give a gate that keeps
// what the reader promises. Anything else (a crash, a sanitizer's report, another exception, memory or time) is a bug.
//
// Build and run (clang with its runtime libraries, in the root of the repository):
//   clang++ -std=c++17 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -Icsrc
//       tools/fuzz/fuzz_gate_file.cpp csrc/gate_config.cpp csrc/gate_file.cpp csrc/gguf_reader.cpp -o fuzz_gate_file
//   python tools/fuzz/seeds.py corpus
//   ./fuzz_gate_file -max_len=16384 -rss_limit_mb=512 -malloc_limit_mb=64 -timeout=5 corpus
#include "core.h"

#include <algorithm>
#include <cstdlib>

namespace {

void require(bool holds) {
    if (!holds) {
        std::abort();
    }
}

const lcg::host_tensor * find(const lcg::gate_weights & weights, const char * name) {
    const auto found = std::find_if(weights.tensors.begin(), weights.tensors.end(),
        [name](const lcg::host_tensor & tensor) { return tensor.name == name; });
    return found == weights.tensors.end() ? nullptr : &*found;
}

void check(const lcg::gate_file & file) {
    const lcg::gate_config & config     = file.config;
    const size_t             n_families = config.families.size();
    require(n_families >= 2 && n_families <= lcg::max_families);
    require(config.maskable.size() == n_families && config.neutral < n_families && !config.maskable[config.neutral]);
    for (const auto & thresholds : {config.thresholds.usual, config.thresholds.first}) {
        require(thresholds.size() == n_families);
        for (const float threshold : thresholds) {
            require(threshold > 0.0f && threshold < 1.0f);
        }
    }
    require(config.thresholds.allow.empty() || config.thresholds.allow.size() == n_families);
    for (const float threshold : config.thresholds.allow) {
        require(threshold > 0.0f && threshold <= 1.0f);
    }
    require(!config.confidence.empty());
    require(file.weights.token_family.size() == config.n_vocab);
    for (const uint8_t family : file.weights.token_family) {
        require(family < n_families);
    }
    for (const uint32_t token : config.exempt_tokens) {
        require(token < config.n_vocab);
    }
    for (const lcg::masked_token & masked : config.masked_as) {
        require(masked.token < config.n_vocab && masked.family < n_families);
    }
    const lcg::host_tensor * fc2 = find(file.weights, "lcg.fc2.weight");
    require(fc2 != nullptr && fc2->ne[1] == static_cast<int64_t>(n_families));
    require(fc2->ne[0] == static_cast<int64_t>(config.n_hidden > 0 ? config.n_hidden : config.n_embd));
    require((find(file.weights, "lcg.fc1.weight") != nullptr) == (config.n_hidden > 0));
    for (const lcg::host_tensor & tensor : file.weights.tensors) {
        const auto n      = static_cast<size_t>(tensor.ne[0] * tensor.ne[1]);
        const bool narrow = tensor.type == lcg::type_f16 || tensor.type == lcg::type_bf16;
        require(tensor.data.size() == (tensor.type == lcg::type_q8_0 ? n / 32 * 34 : narrow ? n * 2 : n * 4));
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    try {
        check(lcg::parse_gate_file(data, size, "gate.gguf"));
    } catch (const lcg::gate_error &) {
        return 0;
    }
    return 0;
}
