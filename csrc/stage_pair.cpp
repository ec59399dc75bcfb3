// The two stages as the bindings drive them: options, a reply's beginning, one step through the chain, what to report.
#include "stage_pair.h"

#include <algorithm>

namespace lcg {

stage_pair::state::state(std::shared_ptr<const gate> gate, const stage_options & stage_options)
    : model(std::move(gate)), z(model->config.families.size()) {
    set_options(stage_options);
    if (model->weights) {
        mlp.emplace(model, 1);
    }
    for (const confidence_set & set : model->config.confidence) {
        n_confident = std::max<size_t>(n_confident, set.top_k);
    }
    make_ring();
    if (options.total) {
        const std::lock_guard<std::mutex> guard(options.total->lock);
        options.total->live.push_back(this);
    }
}

// Clones are made often, for drafts that are taken back: the MLP gets its memory when it is first needed. Mirostat
// stays behind, in the other chain.
stage_pair::state::state(const state & source)
    : model(source.model), options(source.options), facts(source.facts), n_confident(source.n_confident),
      last(source.last), reply(source.reply), position(source.position), open(source.open), phases(source.phases),
      sampled(source.sampled), prompt(source.prompt), z(source.z.size()), bytes_of(source.bytes_of) {
    facts.mirostat = nullptr;
    make_ring();
    if (options.total) {
        const std::lock_guard<std::mutex> guard(options.total->lock);
        options.total->live.push_back(this);
    }
}

stage_pair::state::~state() {
    if (options.total) {
        const std::lock_guard<std::mutex> guard(options.total->lock);
        auto &                            live = options.total->live;
        options.total->gone += stats;
        live.erase(std::find(live.begin(), live.end(), this));
    }
}

stage_stats & stage_stats::operator+=(const stage_stats & other) {
    steps += other.steps;
    gate_runs += other.gate_runs;
    interventions += other.interventions;
    observed += other.observed;
    not_confident += other.not_confident;
    without_hidden += other.without_hidden;
    pin_yields += other.pin_yields;
    removed_mass += other.removed_mass;
    gate_seconds += other.gate_seconds;
    return *this;
}

stage_stats tally::total() {
    const std::lock_guard<std::mutex> guard(lock);
    stage_stats                       sum = gone;
    for (const stage_pair::state * state : live) {
        const std::lock_guard<std::mutex> state_guard(state->lock);
        sum += state->stats;
    }
    return sum;
}

void stage_pair::state::set_options(const stage_options & stage_options) {
    if (stage_options.phases != options.phases) {
        phases = phase_reader(stage_options.phases);
    }
    options  = stage_options;
    bytes_of = options.usual.pinned.get();
    for (size_t i = 0; bytes_of == nullptr && options.phases && i < options.phases->phases.size(); i++) {
        bytes_of = options.phases->phases[i].options.pinned.get();
    }
}

void stage_pair::state::make_ring() {
    events.resize(options.n_events);
    for (gate_event & event : events) {
        event.z.reserve(z.size());
        event.removed.reserve(max_event_tokens + 1);
        event.left.reserve(max_event_tokens);
    }
    n_events = 0;
    pending  = false;
}

void stage_pair::state::forget() {
    last     = no_family;
    position = 0;
    pending  = false;
    sampled  = false;
    open     = {};
    prompt.clear();
    if (options.only_sampled) { // the next prompt is another one
        phases.begin({});
    } else {
        phases.restart();
    }
}

void stage_pair::state::begin_step() {
    error.clear();
    if (!prompt.empty()) {
        phases.begin(prompt);
        prompt.clear();
    }
    const std::lock_guard<std::mutex> guard(lock);
    if (!sampled) {
        before = stats;
        return;
    }
    // the program samples the token once more, such as with its grammar; what counts is the last time
    before.gate_runs    = stats.gate_runs;
    before.gate_seconds = stats.gate_seconds;
    stats               = before;
    n_events -= pending ? 1 : 0;
    pending = false;
}

stage_pair::stage_pair(std::shared_ptr<const gate> gate, const stage_options & options)
    : state_(std::make_shared<state>(std::move(gate), options)) {}

stage_pair::~stage_pair() = default;

void stage_pair::set_options(const stage_options & options) {
    const std::lock_guard<std::mutex> guard(state_->lock);
    const bool                        new_ring = options.n_events != state_->options.n_events;
    state_->set_options(options);
    if (new_ring) {
        state_->make_ring();
    }
}

void stage_pair::begin_reply(const chain_facts & facts, bool continued) {
    state_->facts = facts;
    if (!continued) {
        state_->phases.begin({});
        state_->forget();
        state_->reply++;
    }
}

void stage_pair::read_prompt(const std::vector<int32_t> & tokens) {
    state_->phases.begin(tokens);
}

int stage_pair::phase() const {
    const lcg::phase * open = state_->phases.open();
    return open != nullptr ? static_cast<int>(open - state_->options.phases->phases.data()) : -1;
}

token_data_array stage_pair::apply(llama_sampler * chain, const float * logits, const float * hidden, bool direct) {
    state &      s       = *state_;
    const size_t n_vocab = s.model->config.n_vocab;
    s.hidden             = hidden;
    s.logits             = logits;
    s.error.clear();
    s.direct = direct && s.build_direct(logits);
    if (!s.direct) {
        s.array.resize(n_vocab);
        for (size_t i = 0; i < n_vocab; i++) {
            s.array[i] = {static_cast<int32_t>(i), logits[i], 0.0f};
        }
    }
    token_data_array tokens = {s.array.data(), s.array.size(), -1, s.direct};
    host.llama_sampler_apply(chain, reinterpret_cast<llama_token_data_array *>(&tokens));
    s.hidden = nullptr;
    s.logits = nullptr;
    s.direct = false;
    if (!s.error.empty()) {
        throw gate_error(s.error);
    }
    return tokens;
}

int32_t stage_pair::sample(llama_sampler * chain, const float * logits, const float * hidden) {
    const token_data_array tokens = apply(chain, logits, hidden, true);
    if (tokens.selected < 0 || static_cast<size_t>(tokens.selected) >= tokens.size) {
        throw gate_error("the sampling chain chose no token out of " + std::to_string(tokens.size) + " candidates");
    }
    const int32_t token = tokens.data[tokens.selected].id;
    host.llama_sampler_accept(chain, token);
    return token;
}

stage_stats stage_pair::stats() const {
    const std::lock_guard<std::mutex> guard(state_->lock);
    return state_->stats;
}

std::vector<gate_event> stage_pair::events() const {
    const std::lock_guard<std::mutex> guard(state_->lock);
    const auto &                      ring  = state_->events;
    const size_t                      count = std::min(ring.size(), state_->n_events);
    std::vector<gate_event>           events;
    for (size_t i = state_->n_events - count; i < state_->n_events; i++) {
        events.push_back(ring[i % ring.size()]);
    }
    return events;
}

void stage_pair::reset_stats() {
    const std::lock_guard<std::mutex> guard(state_->lock);
    state_->stats    = {};
    state_->n_events = 0;
    state_->pending  = false;
}

} // namespace lcg
