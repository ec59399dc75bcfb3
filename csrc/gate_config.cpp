// The keys of a gate file as a configuration, each of them checked.
#include "gguf_reader.h"

#include <algorithm>
#include <set>

namespace lcg {
namespace {

constexpr uint32_t max_embd         = 1 << 16;
constexpr uint32_t max_vocab        = 1 << 22;
constexpr uint32_t max_confidence_k = 1024;

std::vector<confidence_set> read_confidence(const key_table & keys) {
    const auto & top_k = keys.get_array<uint64_t>("adapter.lcg.confidence.top_k", gguf_u32);
    const auto & top_p = keys.get_array<double>("adapter.lcg.confidence.top_p", gguf_f32);
    if (top_k.empty() || top_k.size() > 8 || top_k.size() != top_p.size()) {
        keys.in().fail("keys `adapter.lcg.confidence.top_k` and `.top_p` have ", top_k.size(), " and ", top_p.size(),
            " elements, expected the same number from 1 to 8");
    }
    std::vector<confidence_set> sets;
    for (size_t i = 0; i < top_k.size(); i++) {
        if (top_k[i] < 1 || top_k[i] > max_confidence_k) {
            keys.fail("adapter.lcg.confidence.top_k", "holds ", top_k[i], ", expected 1 to ", max_confidence_k);
        }
        if (!(top_p[i] > 0.0 && top_p[i] <= 1.0)) {
            keys.fail("adapter.lcg.confidence.top_p", "holds ", top_p[i], ", expected more than 0 and at most 1");
        }
        sets.push_back({static_cast<uint32_t>(top_k[i]), static_cast<float>(top_p[i])});
    }
    return sets;
}

void read_families(const key_table & keys, gate_config & config) {
    config.families = keys.get_array<std::string>("adapter.lcg.families", gguf_string);
    const size_t n  = config.families.size();
    if (n < 2 || n > max_families) {
        keys.fail("adapter.lcg.families", "has ", n, " elements, expected 2 to ", max_families);
    }
    if (std::set<std::string>(config.families.begin(), config.families.end()).size() != n) {
        keys.fail("adapter.lcg.families", "names a family twice");
    }
    const auto & maskable = keys.get_array<bool>("adapter.lcg.maskable", gguf_bool);
    if (maskable.size() != n) {
        keys.fail("adapter.lcg.maskable", "has ", maskable.size(), " elements, expected ", n, ", one for each family");
    }
    config.maskable.assign(maskable.begin(), maskable.end());
    config.neutral = keys.count("adapter.lcg.neutral", 0, static_cast<uint32_t>(n) - 1);
    if (config.maskable[config.neutral]) {
        keys.fail("adapter.lcg.maskable", "says that the neutral family `", config.families[config.neutral],
            "` may be masked");
    }
}

void check_probability(const key_table & keys, const char * key, const char * verb, double value) {
    const auto stored = static_cast<float>(value);
    if (!(stored > 0.0f && stored < 1.0f)) {
        keys.fail(key, verb, stored, ", expected a probability between 0 and 1");
    }
}

// An array of them, or `otherwise` where the file has none.
std::vector<float> read_threshold_array(const key_table & keys, const char * name, size_t n_families,
    const std::vector<float> & otherwise, bool may_be_one = false) {
    if (keys.find(name) == nullptr) {
        return otherwise;
    }
    std::vector<float> thresholds;
    for (const double threshold : keys.get_array<double>(name, gguf_f32)) {
        if (!may_be_one || threshold != 1) {
            check_probability(keys, name, "holds ", threshold);
        }
        thresholds.push_back(static_cast<float>(threshold));
    }
    if (thresholds.size() != n_families) {
        keys.fail(name, "has ", thresholds.size(), " elements, expected ", n_families, ", one for each family");
    }
    return thresholds;
}

family_thresholds read_thresholds(const key_table & keys, size_t n_families) {
    const double common = keys.get<double>("adapter.lcg.threshold", gguf_f32);
    check_probability(keys, "adapter.lcg.threshold", "is ", common);
    const std::vector<float> all(n_families, static_cast<float>(common));
    family_thresholds        found;
    found.usual = read_threshold_array(keys, "adapter.lcg.thresholds", n_families, all);
    found.first = read_threshold_array(keys, "adapter.lcg.first_thresholds", n_families, found.usual);
    found.allow = read_threshold_array(keys, "adapter.lcg.allow_thresholds", n_families, {}, true);
    return found;
}

std::vector<masked_token> read_masked_as(const key_table & keys, const gate_config & config) {
    std::vector<masked_token> found;
    if (keys.find("adapter.lcg.masked_as.tokens") == nullptr &&
        keys.find("adapter.lcg.masked_as.families") == nullptr) {
        return found;
    }
    const auto & tokens   = keys.get_array<uint64_t>("adapter.lcg.masked_as.tokens", gguf_u32);
    const auto & families = keys.get_array<uint64_t>("adapter.lcg.masked_as.families", gguf_u32);
    if (tokens.size() != families.size()) {
        keys.in().fail("keys `adapter.lcg.masked_as.tokens` and `.families` have ", tokens.size(), " and ",
            families.size(), " elements, expected the same number");
    }
    for (size_t i = 0; i < tokens.size(); i++) {
        if (tokens[i] >= config.n_vocab || (i > 0 && tokens[i] <= tokens[i - 1])) {
            keys.fail("adapter.lcg.masked_as.tokens", "holds token ", tokens[i], " at index ", i,
                ", expected ascending ones below ", config.n_vocab);
        }
        if (families[i] >= config.families.size()) {
            keys.fail("adapter.lcg.masked_as.families", "holds ", families[i], ", expected 0 to ",
                config.families.size() - 1);
        }
        found.push_back({static_cast<uint32_t>(tokens[i]), static_cast<uint8_t>(families[i])});
    }
    return found;
}

} // namespace

gate_config read_config(const key_table & keys) {
    gate_config config;
    keys.count("adapter.lcg.version", 1, 1);
    config.architecture   = keys.get<std::string>("general.architecture", gguf_string);
    config.rules          = keys.get<std::string>("adapter.lcg.rules", gguf_string);
    config.tokenizer_hash = keys.get<std::string>("adapter.lcg.tokenizer_hash", gguf_string);
    if (keys.find("adapter.lcg.fingerprint") != nullptr) {
        config.fingerprint = keys.get<std::string>("adapter.lcg.fingerprint", gguf_string);
    }
    config.n_embd   = keys.count("adapter.lcg.n_embd", 1, max_embd);
    config.n_hidden = keys.count("adapter.lcg.n_hidden", 0, max_embd);
    config.n_vocab  = keys.count("adapter.lcg.n_vocab", 1, max_vocab);
    read_families(keys, config);
    config.thresholds = read_thresholds(keys, config.families.size());
    config.confidence = read_confidence(keys);
    if (keys.find("adapter.lcg.exempt_tokens") != nullptr) { // writers leave empty arrays out
        for (const uint64_t token : keys.get_array<uint64_t>("adapter.lcg.exempt_tokens", gguf_u32)) {
            if (token >= config.n_vocab) {
                keys.fail("adapter.lcg.exempt_tokens", "holds token ", token, ", the vocabulary has ", config.n_vocab);
            }
            config.exempt_tokens.push_back(static_cast<uint32_t>(token));
        }
    }
    config.masked_as = read_masked_as(keys, config);
    return config;
}

} // namespace lcg
