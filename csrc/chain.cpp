// Where the two stages go in a chain of llama.cpp's samplers, which says nothing of itself but the names of its parts.
#include "core.h"

#include <algorithm>
#include <cmath>
#include <string_view>

namespace lcg {
namespace {

constexpr std::string_view choosers[] = {"greedy", "dist", "mirostat", "mirostat-v2"};

template <typename List> bool is_one_of(std::string_view name, const List & list) {
    return std::find(std::begin(list), std::end(list), name) != std::end(list);
}

// llama.cpp's name of a sampler: "top-k", or "?top-k" where it does nothing; "" where it has none. Marks of where it
// runs are left out.
std::string_view name_of(llama_sampler * part) {
    const auto * functions = reinterpret_cast<sampler_functions *>(reinterpret_cast<sampler_object *>(part)->iface);
    if (functions->name == nullptr) {
        return ""; // llama_sampler_name would call it
    }
    std::string_view name = host.llama_sampler_name(part);
    name.remove_prefix(std::min(name.find_first_not_of("+-"), name.size()));
    return name;
}

std::string_view without_mark(std::string_view name) {
    return name.substr(!name.empty() && name[0] == '?' ? 1 : 0);
}

token_data_array apply_to(llama_sampler * part, std::vector<token_data> & tokens) {
    token_data_array array = {tokens.data(), tokens.size(), -1, true};
    host.llama_sampler_apply(part, reinterpret_cast<llama_token_data_array *>(&array));
    return array;
}

// What a temperature sampler divides logits by; 0 if it keeps only the best.
float temperature_of(llama_sampler * part) {
    std::vector<token_data> tokens = {{0, 1.0f, 0.0f}, {1, 0.0f, 0.0f}};
    const token_data_array  left   = apply_to(part, tokens);
    const bool is_greedy = left.size < 2 || left.data[1].logit == -INFINITY || left.data[0].logit == -INFINITY;
    return is_greedy ? 0.0f : 1.0f / std::max(left.data[0].logit, left.data[1].logit);
}

// How many tokens a top-k sampler leaves; 0 if it leaves so many that it hardly matters.
int32_t top_k_of(llama_sampler * part) {
    constexpr int32_t       n = 4096;
    std::vector<token_data> tokens;
    for (int32_t i = 0; i < n; i++) {
        tokens.push_back({i, static_cast<float>(n - i), 0.0f});
    }
    const auto left = static_cast<int32_t>(apply_to(part, tokens).size);
    return left < n ? left : 0;
}

chain_facts read_facts(const std::vector<llama_sampler *> & parts, const std::vector<std::string_view> & names,
    size_t first, std::optional<float> temperature, std::optional<int32_t> top_k) {
    chain_facts            facts;
    const std::string_view end = names.back().substr(0, names.back().find('-'));
    facts.end      = end == "greedy" ? chain_end::greedy : end == "mirostat" ? chain_end::mirostat : chain_end::draw;
    facts.mirostat = facts.end == chain_end::mirostat ? parts.back() : nullptr;
    facts.direct   = std::all_of(names.begin(), names.begin() + static_cast<ptrdiff_t>(first),
        [](std::string_view name) { return !name.empty() && name[0] == '?'; });
    for (size_t i = 0; i < parts.size(); i++) {
        if (names[i] == "temp" || names[i] == "temp-ext") {
            facts.temperature = temperature ? *temperature : temperature_of(parts[i]);
        } else if (names[i] == "top-k") {
            facts.top_k = top_k ? *top_k : top_k_of(parts[i]);
        }
    }
    if (facts.temperature <= 0.0f) { // then the temperature makes the choice
        facts.temperature = 1.0f;
        facts.end         = facts.end == chain_end::draw ? chain_end::greedy : facts.end;
    }
    return facts;
}

} // namespace

placement insert_stages(
    llama_sampler * chain, const shared_state & state, std::optional<float> temperature, std::optional<int32_t> top_k) {
    std::vector<llama_sampler *>  parts;
    std::vector<std::string_view> names;
    for (int32_t i = 0; i < host.llama_sampler_chain_n(chain); i++) {
        parts.push_back(host.llama_sampler_chain_get(chain, i));
        names.push_back(name_of(parts.back()));
    }
    if (names.empty() || !is_one_of(names.back(), choosers)) {
        throw gate_error("the sampling chain does not end in a choice; add greedy, dist or mirostat to it first");
    }
    const auto find = [&](const auto & matches) {
        return static_cast<size_t>(std::find_if(names.begin(), names.end(), matches) - names.begin());
    };
    const size_t first = find(
        [](std::string_view name) { return without_mark(name) == "top-k" || is_one_of(without_mark(name), choosers); });
    const size_t hot  = find([](std::string_view name) { return name == "temp" || name == "temp-ext"; });
    size_t       gate = first;
    for (size_t i = first; i < std::min(hot, names.size()); i++) {
        const std::string_view name = without_mark(names[i]);
        gate                        = name == "top-k" || name == "typical" || name == "top-p" ? i + 1 : gate;
    }
    const chain_facts facts = read_facts(parts, names, first, temperature, top_k);

    llama_sampler * shortlist = new_shortlist(state);
    llama_sampler * judge     = new_gate_stage(state);
    for (size_t i = parts.size(); i > first; i--) {
        host.llama_sampler_chain_remove(chain, static_cast<int32_t>(i - 1));
    }
    host.llama_sampler_chain_add(chain, shortlist);
    for (size_t i = first; i < parts.size(); i++) {
        if (i == gate) {
            host.llama_sampler_chain_add(chain, judge);
        }
        host.llama_sampler_chain_add(chain, parts[i]);
    }
    return {first, gate + 1, facts};
}

} // namespace lcg
