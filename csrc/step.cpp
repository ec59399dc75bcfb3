// What the two stages do with a step's candidates.
//
// Everything is lazy and exact: the MLP runs only if its answer could matter, H is computed only if the answer bans a
// family that is present (paper, section 3.3; policy.cpp holds the rules).
#include "labels.h"
#include "stage_pair.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

namespace lcg {

// ---- pin ----

const uint8_t * stage_pair::state::pinned_away() {
    if (now().pinned == nullptr || now().mode != gate_mode::mask) {
        return nullptr;
    }
    return now().pinned->away(open, away);
}

float stage_pair::state::lowered(float logit) const {
    const float least = logit == -INFINITY ? logit : std::numeric_limits<float>::lowest();
    return now().strength == INFINITY ? -INFINITY : std::max(logit - now().strength, least);
}

// The row that is left of one; the row itself if nothing is.
const float * stage_pair::state::without_pinned(const float * logits, const uint8_t * pinned) {
    const size_t n = model->config.n_vocab;
    copied_row.resize(n);
    bool is_empty = true;
    if (now().strength == INFINITY) {
        int left = 0;
        for (size_t i = 0; i < n; i++) { // written for the compiler to vectorize
            const float logit = pinned[i] != 0 ? -INFINITY : logits[i];
            left |= logit != -INFINITY;
            copied_row[i] = logit;
        }
        is_empty = left == 0;
    } else {
        for (size_t i = 0; i < n; i++) {
            copied_row[i] = pinned[i] != 0 ? lowered(logits[i]) : logits[i];
        }
        is_empty = false;
    }
    return is_empty ? logits : copied_row.data();
}

void stage_pair::state::remove_pinned(token_data_array * tokens) {
    const uint8_t * pinned = pinned_away();
    if (pinned == nullptr) {
        return;
    }
    token_data * const end = tokens->data + tokens->size;
    if (now().strength < INFINITY) {
        for (token_data * token = tokens->data; token < end; token++) {
            token->logit = pinned[token->id] != 0 ? lowered(token->logit) : token->logit;
        }
        tokens->sorted = false;
        return;
    }
    if (std::none_of(tokens->data, end,
            [pinned](const token_data & token) { return pinned[token.id] == 0 && token.logit != -INFINITY; })) {
        const std::lock_guard<std::mutex> guard(lock);
        stats.pin_yields++;
        return;
    }
    const token_data * left =
        std::remove_if(tokens->data, end, [pinned](const token_data & token) { return pinned[token.id] != 0; });
    tokens->size = static_cast<size_t>(left - tokens->data);
}

// ---- shortlist ----

size_t stage_pair::state::n_wanted() const {
    const size_t n_top_k = facts.top_k > 0 ? static_cast<size_t>(facts.top_k) + 1 : 0; // one more shows a tie
    return std::max({n_confident, n_top_k, size_t{1}});
}

bool stage_pair::state::top_k_is_unique() const {
    const size_t n = std::min(best.size(), static_cast<size_t>(facts.top_k) + 1);
    for (size_t i = 1; i < n; i++) {
        if (best[i].logit == best[i - 1].logit) {
            return false;
        }
    }
    return true;
}

bool stage_pair::state::build_direct(const float * logits) {
    row   = logits;
    n_row = model->config.n_vocab;
    best.clear();
    if (!facts.direct || (facts.top_k <= 0 && facts.end != chain_end::greedy)) {
        return false;
    }
    const uint8_t * pinned = pinned_away();
    if (pinned != nullptr) {
        row = without_pinned(logits, pinned);
        if (row == logits) {
            return false; // nothing is left, or the row is not valid: the whole array shows which
        }
    }
    if (!select_top(row, n_row, n_wanted(), top)) {
        return false;
    }
    for (const uint32_t i : top) {
        if (pinned == nullptr || pinned[i] == 0 || row[i] != -INFINITY) {
            best.push_back({static_cast<int32_t>(i), row[i], 0.0f});
        }
    }
    if (facts.end != chain_end::greedy && !top_k_is_unique()) {
        return false;
    }
    array = best;
    return true;
}

void stage_pair::state::on_shortlist(token_data_array * tokens) {
    given   = tokens->data;
    n_given = tokens->size;
    if (direct) {
        return;
    }
    remove_pinned(tokens);
    best.clear();
    if (!acts()) {
        return;
    }
    n_row = tokens->size;
    copied_row.resize(n_row); // later samplers move the tokens, H needs them all
    for (size_t i = 0; i < n_row; i++) {
        copied_row[i] = tokens->data[i].logit;
    }
    row = copied_row.data();
    if (!select_top(row, n_row, n_wanted(), top)) {
        return;
    }
    for (const uint32_t i : top) {
        best.push_back(tokens->data[i]);
    }
    if (facts.top_k > 0 && facts.end == chain_end::draw && top_k_is_unique()) {
        std::copy(best.begin(), best.end(), tokens->data);
        tokens->size   = best.size();
        tokens->sorted = true;
    }
}

// ---- gate ----

token_data_array stage_pair::state::survivors(token_data_array * tokens) {
    token_data_array s = *tokens;
    if (facts.end == chain_end::greedy) {
        const auto less = [](const token_data & a, const token_data & b) { return a.logit < b.logit; };
        s.data          = std::max_element(tokens->data, tokens->data + tokens->size, less);
        s.size          = 1;
    } else if (facts.end == chain_end::mirostat && facts.mirostat != nullptr) {
        // mirostat truncates by itself; a clone of it, with the same state, shows what it would leave. The clone
        // sorts the array in place, as mirostat itself would.
        llama_sampler * sampler = host.llama_sampler_clone(facts.mirostat);
        host.llama_sampler_apply(sampler, reinterpret_cast<llama_token_data_array *>(&s));
        host.llama_sampler_free(sampler);
        tokens->sorted = s.sorted;
    }
    return s;
}

void stage_pair::state::evaluate() {
    const auto start = std::chrono::steady_clock::now();
    if (model->labels) {
        model->labels->predict(logits, z.data());
    } else {
        if (!mlp) {
            mlp.emplace(model, 1);
        }
        mlp->run(hidden, z.data());
    }
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;

    const std::lock_guard<std::mutex> guard(lock);
    stats.gate_runs++;
    stats.gate_seconds += time.count();
}

void stage_pair::state::on_gate(token_data_array * tokens) {
    sampled = true;
    if (!acts() || best.empty() || tokens->size == 0) {
        return;
    }
    const token_data_array s          = survivors(tokens);
    const family_set       present    = families_of(s.data, s.size, model->masked_as.data());
    const family_set       certain    = allowed_families(now().rules, {}, last);
    const bool             can_matter = (present & model->maskable & ~certain).any();
    if (!can_matter && !options.eager) {
        return;
    }
    if ((model->labels ? logits : hidden) == nullptr) {
        const std::lock_guard<std::mutex> guard(lock);
        stats.without_hidden++;
        return;
    }
    evaluate();
    if (can_matter) {
        judge(tokens, s, present);
    }
}

void stage_pair::state::judge(token_data_array * tokens, const token_data_array & s, const family_set & present) {
    const float      temperature = std::max(facts.temperature, now().rules.confidence_temperature);
    const prediction by_gate     = predict_families(z.data(), now().rules.thresholds, last);
    double           sum         = 0; // of the softmax at that temperature
    size_t           n           = 0; // of the best are in H
    const auto       confident   = [&] {
        sum = softmax_sum(row, n_row, best[0].logit, temperature);
        n   = confident_count(best.data(), best.size(), model->config.confidence, temperature, sum);
        return families_in_h(*model, best.data(), n);
    };
    // by reference: a copy of the lambda would be allocated
    const ruling found =
        rule(now().rules, now().strength, model->maskable, by_gate, last, present, std::cref(confident));
    if (found.outcome == verdict::not_confident) {
        const std::lock_guard<std::mutex> guard(lock);
        stats.not_confident++;
    }
    if (found.outcome != verdict::intervene) {
        return;
    }
    apply_ban(s, best.data(), n, found.banned, model->masked_as.data(), now().strength, kept);
    const bool same = temperature == facts.temperature;
    record(s, found, same ? sum : softmax_sum(row, n_row, best[0].logit, facts.temperature));
    if (now().mode == gate_mode::mask) {
        if (tokens->data == given && kept.size() <= n_given) { // programs may look at their array afterwards
            std::copy(kept.begin(), kept.end(), tokens->data);
        } else {
            tokens->data = kept.data();
        }
        tokens->size   = kept.size();
        tokens->sorted = true;
    }
}

gate_event * stage_pair::state::new_event(const ruling & found) {
    if (events.empty()) {
        return nullptr;
    }
    gate_event & event = events[n_events++ % events.size()];
    event.reply        = reply;
    event.position     = position;
    event.last         = last;
    event.observed     = now().mode != gate_mode::mask;
    event.predicted    = found.predicted;
    event.allowed      = found.allowed;
    event.banned       = found.banned;
    event.z.assign(z.begin(), z.end());
    event.removed.clear();
    event.left.clear();
    event.chosen = -1;
    pending      = true;
    return &event;
}

void stage_pair::state::record(const token_data_array & s, const ruling & found, double sum) {
    const auto by_probability = [](const token_data & a, const token_data & b) {
        return a.p != b.p ? a.p > b.p : a.id < b.id;
    };
    const auto probability = [&](const token_data & token) {
        return std::exp(double(token.logit - best[0].logit) / double(facts.temperature)) / sum;
    };
    const std::lock_guard<std::mutex> guard(lock);
    stats.interventions++;
    stats.observed += now().mode == gate_mode::observe;
    gate_event * event = new_event(found);
    for (size_t i = 0; i < s.size; i++) {
        token_data token = s.data[i];
        if (!found.banned[model->masked_as[token.id]] || token.logit == -INFINITY) {
            continue;
        }
        const double p = probability(token);
        stats.removed_mass += p;
        if (event == nullptr) {
            continue;
        }
        token.p        = static_cast<float>(p);
        auto & removed = event->removed;
        removed.insert(std::upper_bound(removed.begin(), removed.end(), token, by_probability), token);
        if (removed.size() > max_event_tokens) {
            removed.pop_back();
        }
    }
    for (size_t i = 0; event != nullptr && i < std::min(kept.size(), max_event_tokens); i++) {
        event->left.push_back({kept[i].id, kept[i].logit, static_cast<float>(probability(kept[i]))});
    }
}

void stage_pair::state::on_accept(int32_t token) {
    if (options.only_sampled && !sampled) {
        if (position == 0 && options.phases) {
            add_to_end(prompt, token);
        }
        return;
    }
    sampled = false;
    const std::lock_guard<std::mutex> guard(lock);
    stats.steps++;
    position++;
    if (pending) {
        events[(n_events - 1) % events.size()].chosen = token;
        pending                                       = false;
    }
    if (bytes_of != nullptr) {
        open = bytes_of->after(open, token);
    }
    const auto id = static_cast<size_t>(token);
    if (token >= 0 && id < model->token_family.size() && model->token_family[id] != model->config.neutral) {
        last = model->token_family[id];
    }
    if (phases.accept(token)) {
        last = no_family; // the language of a thought says nothing about the answer's
    }
}

} // namespace lcg
