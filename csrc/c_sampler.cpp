// lcg.h: the sampler that wraps a chain. llama_sampler_sample hands it a row of logits without saying which; the row
// whose numbers these are tells which hidden state belongs to it.
#include "c_interface.h"
#include "stage_pair.h"
#include "text.h"

#include <algorithm>
#include <cmath>

using namespace lcg;

namespace {

struct wrapped_chain {
    llama_sampler *             chain;
    llama_context *             context;
    lcg_tap *                   tap;
    std::shared_ptr<stage_pair> stages;
    placement                   place;
    bool                        sampled = false; // a token was sampled that was not accepted yet
    std::string                 error;           // of the newest step

    stage_pair::state & state() const { return *stages->shared(); }
};

wrapped_chain & chain_of(const llama_sampler * sampler) {
    return *static_cast<wrapped_chain *>(reinterpret_cast<const sampler_object *>(sampler)->ctx);
}

// Whether these candidates were made from this row of logits. A grammar may have forbidden some.
bool is_row(const token_data_array & tokens, const float * row) {
    constexpr size_t n_compared = 64;
    const size_t     step       = std::max<size_t>(tokens.size / n_compared, 1);
    for (size_t i = 0; i < tokens.size; i += step) {
        const token_data & token = tokens.data[i];
        if (token.logit != row[token.id] && token.logit != -INFINITY) {
            return false;
        }
    }
    return true;
}

// The hidden state that the candidates were computed from; nullptr if it is not known.
const float * hidden_of(const wrapped_chain & self, const token_data_array & tokens) {
    const gate_config & config = self.state().model->config;
    const float *       last   = host.llama_get_logits_ith(self.context, -1);
    const float *       base   = host.llama_get_logits(self.context);
    if (base == nullptr || last == nullptr || last < base) {
        return nullptr;
    }
    const size_t n_rows = static_cast<size_t>(last - base) / config.n_vocab + 1;
    for (size_t i = 0; i < n_rows; i++) {
        const float * row = base + i * config.n_vocab;
        // where only one row is there, it is this one, also if the program changed some logits
        if (n_rows == 1 || is_row(tokens, row)) {
            const float * hidden = self.tap->rows.row_of(self.context, row, config.n_vocab);
            return self.tap->rows.n_embd() == config.n_embd ? hidden : nullptr;
        }
    }
    return nullptr;
}

const char * chain_name(const llama_sampler *) {
    return "lcg";
}

void chain_apply(llama_sampler * sampler, token_data_array * tokens) {
    wrapped_chain &     self  = chain_of(sampler);
    stage_pair::state & state = self.state();
    state.hidden              = state.acts() ? hidden_of(self, *tokens) : nullptr;
    state.error.clear();
    host.llama_sampler_apply(self.chain, reinterpret_cast<llama_token_data_array *>(tokens));
    state.hidden = nullptr;
    self.error.swap(state.error);
    self.sampled = true;
}

void chain_accept(llama_sampler * sampler, int32_t token) {
    wrapped_chain & self = chain_of(sampler);
    self.state().listens = self.sampled;
    self.sampled         = false;
    host.llama_sampler_accept(self.chain, token);
    self.state().listens = true;
}

void chain_reset(llama_sampler * sampler) {
    wrapped_chain & self = chain_of(sampler);
    host.llama_sampler_reset(self.chain);
    self.stages->begin_reply(self.place.facts, false);
    self.sampled = false;
}

void chain_free(llama_sampler * sampler) {
    wrapped_chain & self = chain_of(sampler);
    host.llama_sampler_free(self.chain);
    delete &self;
}

llama_sampler * chain_clone(const llama_sampler * sampler);

sampler_functions chain_functions = {chain_name, chain_accept, chain_apply, chain_reset, chain_clone, chain_free};

llama_sampler * new_wrapper(wrapped_chain wrapped) {
    return host.llama_sampler_init(
        reinterpret_cast<llama_sampler_i *>(&chain_functions), new wrapped_chain(std::move(wrapped)));
}

llama_sampler * chain_clone(const llama_sampler * sampler) {
    const wrapped_chain & self  = chain_of(sampler);
    llama_sampler *       chain = host.llama_sampler_clone(self.chain);
    const auto            part = [&](size_t i) { return host.llama_sampler_chain_get(chain, static_cast<int32_t>(i)); };
    const shared_state &  state = state_in(part(self.place.shortlist));
    wrapped_chain         copy  = self;
    copy.chain                  = chain;
    copy.stages                 = std::make_shared<stage_pair>(state);
    if (self.place.facts.mirostat != nullptr) {
        copy.place.facts.mirostat = part(static_cast<size_t>(host.llama_sampler_chain_n(chain)) - 1);
        state->facts.mirostat     = copy.place.facts.mirostat;
    }
    return new_wrapper(std::move(copy));
}

const wrapped_chain * find_chain(const llama_sampler * sampler) {
    const bool is_ours = sampler != nullptr && reinterpret_cast<const sampler_object *>(sampler)->iface ==
                                                   reinterpret_cast<llama_sampler_i *>(&chain_functions);
    return is_ours ? &chain_of(sampler) : nullptr;
}

void write_bits(const family_set & families, uint64_t (&bits)[2]) {
    const family_set low(~uint64_t(0));
    bits[0] = (families & low).to_ullong();
    bits[1] = (families >> 64).to_ullong();
}

} // namespace

llama_sampler * lcg_sampler_init(const lcg_gate * gate, lcg_tap * tap, llama_context * context, llama_sampler * chain,
    lcg_params params, lcg_error * error) {
    llama_sampler * sampler = nullptr;
    guarded(error, [&] {
        const std::pair<const char *, const void *> needed[] = {
            {"gate", gate}, {"tap", tap}, {"context", context}, {"chain", chain}};
        for (const auto & [name, value] : needed) {
            if (value == nullptr) {
                throw bad_argument(joined("`", name, "` is NULL"));
            }
        }
        check_model(*gate, host.llama_get_model(context));
        auto stages = std::make_shared<stage_pair>(gate->weights, options_of(params, gate->weights->config.thresholds));
        placement place;
        try {
            place = insert_stages(chain, stages->shared(), std::nullopt, std::nullopt);
        } catch (const gate_error & e) {
            throw bad_argument(e.what());
        }
        stages->begin_reply(place.facts, false);
        sampler = new_wrapper({chain, context, tap, std::move(stages), place, false, {}});
    });
    return sampler;
}

lcg_stats lcg_sampler_stats(const llama_sampler * sampler) {
    const wrapped_chain * self = find_chain(sampler);
    if (self == nullptr) {
        return {};
    }
    const stage_stats s = self->stages->stats();
    return {s.steps, s.gate_runs, s.interventions, s.not_confident, s.without_hidden, s.removed_mass, s.gate_seconds};
}

uint32_t lcg_sampler_events(const llama_sampler * sampler, lcg_event * events, uint32_t n_max) {
    const wrapped_chain * self = find_chain(sampler);
    uint32_t              n    = 0;
    guarded(nullptr, [&] {
        if (self == nullptr || events == nullptr) {
            return;
        }
        const std::vector<gate_event> all = self->stages->events();
        for (size_t i = all.size() - std::min<size_t>(all.size(), n_max); i < all.size(); i++) {
            lcg_event & event = events[n++];
            event             = {all[i].reply, all[i].position, all[i].last, {}, {}, {}, -1, 0.0f, all[i].chosen};
            write_bits(all[i].predicted, event.predicted);
            write_bits(all[i].allowed, event.allowed);
            write_bits(all[i].banned, event.banned);
            if (!all[i].removed.empty()) {
                event.removed             = all[i].removed[0].id;
                event.removed_probability = all[i].removed[0].p;
            }
        }
    });
    return n;
}

lcg_status lcg_sampler_error(const llama_sampler * sampler, lcg_error * error) {
    const wrapped_chain * self = find_chain(sampler);
    if (self == nullptr) {
        return report(error, LCG_ERROR_ARGUMENT, "`sampler` was not made by lcg_sampler_init");
    }
    return report(error, self->error.empty() ? LCG_OK : LCG_ERROR_MEMORY, self->error.c_str());
}
