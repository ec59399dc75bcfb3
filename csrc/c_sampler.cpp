// lcg.h: the sampler that wraps a chain. llama_sampler_sample hands it a row of logits without saying which; the row
// whose numbers these are tells which hidden state belongs to it.
#include "c_interface.h"
#include "stage_pair.h"
#include "text.h"

#include <algorithm>
#include <cmath>

using namespace lcg;

namespace {

constexpr char not_ours[] = "`sampler` was not made by lcg_sampler_init";

struct wrapped_chain {
    llama_sampler *             chain;
    llama_context *             context;
    lcg_tap *                   tap;
    std::shared_ptr<stage_pair> stages;
    placement                   place;
    std::string                 error; // of the newest step

    stage_pair::state & state() const { return *stages->shared(); }
};

wrapped_chain & chain_of(const llama_sampler * sampler) {
    return *static_cast<wrapped_chain *>(reinterpret_cast<const sampler_object *>(sampler)->ctx);
}

// The hidden state that the candidates were computed from; nullptr if it is not known.
const float * hidden_of(const wrapped_chain & self, const token_data_array & tokens) {
    const gate_config & config = self.state().model->config;
    const float *       row    = find_row(self.context, tokens, config.n_vocab);
    const float *       hidden = row != nullptr ? self.tap->rows.row_of(self.context, row, config.n_vocab) : nullptr;
    return self.tap->rows.n_embd() == config.n_embd ? hidden : nullptr;
}

const char * chain_name(const llama_sampler *) {
    return "lcg";
}

void chain_apply(llama_sampler * sampler, token_data_array * tokens) {
    wrapped_chain &     self  = chain_of(sampler);
    stage_pair::state & state = self.state();
    state.begin_step();
    state.hidden = state.acts() ? hidden_of(self, *tokens) : nullptr;
    host.llama_sampler_apply(self.chain, reinterpret_cast<llama_token_data_array *>(tokens));
    state.hidden = nullptr;
    self.error.swap(state.error);
}

void chain_accept(llama_sampler * sampler, int32_t token) {
    host.llama_sampler_accept(chain_of(sampler).chain, token);
}

void chain_reset(llama_sampler * sampler) {
    wrapped_chain & self = chain_of(sampler);
    host.llama_sampler_reset(self.chain);
    self.stages->begin_reply(self.place.facts, false);
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
        const auto require = [](const char * name, bool is_there) {
            if (!is_there) {
                throw bad_argument(joined("`", name, "` is NULL"));
            }
        };
        require("gate", gate != nullptr || has_pin(params));
        require("tap", tap != nullptr || gate == nullptr);
        require("context", context != nullptr);
        require("chain", chain != nullptr);
        const llama_model * model       = host.llama_get_model(context);
        const auto          n_vocab     = host.llama_vocab_n_tokens(host.llama_model_get_vocab(model));
        const auto          require_fit = [n_vocab](const char * name, size_t n) {
            if (n != static_cast<size_t>(n_vocab)) {
                throw bad_argument(
                    joined("`", name, "` was made for a model of ", n, " tokens, this one has ", n_vocab));
            }
        };
        if (params.pin != nullptr) {
            require_fit("pin", params.pin->n_vocab);
        }
        if (params.phases != nullptr) {
            require_fit("phases", params.phases->texts->n_vocab());
        }
        if (gate != nullptr) {
            check_model(*gate, model);
        }
        const auto weights = gate != nullptr ? gate->weights : no_gate(static_cast<size_t>(n_vocab));
        auto       stages  = std::make_shared<stage_pair>(weights, options_of(params, weights->config.thresholds));
        placement  place;
        try {
            place = insert_stages(chain, stages->shared(), std::nullopt, std::nullopt);
        } catch (const gate_error & e) {
            throw bad_argument(e.what());
        }
        stages->begin_reply(place.facts, false);
        sampler = new_wrapper({chain, context, tap, std::move(stages), place, {}});
    });
    return sampler;
}

lcg_status lcg_sampler_read_prompt(
    llama_sampler * sampler, const int32_t * tokens, size_t n_tokens, lcg_error * error) {
    return guarded(error, [&] {
        const wrapped_chain * self = find_chain(sampler);
        if (self == nullptr) {
            throw bad_argument(not_ours);
        }
        if (tokens == nullptr && n_tokens > 0) {
            throw bad_argument("`tokens` is NULL");
        }
        self->stages->read_prompt({tokens + n_tokens - std::min(n_tokens, n_prompt_end), tokens + n_tokens});
    });
}

lcg_stats lcg_sampler_stats(const llama_sampler * sampler) {
    const wrapped_chain * self = find_chain(sampler);
    if (self == nullptr) {
        return {};
    }
    const stage_stats s = self->stages->stats();
    return {s.steps, s.gate_runs, s.interventions, s.not_confident, s.without_hidden, s.pin_yields, s.removed_mass,
        s.gate_seconds};
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
        return report(error, LCG_ERROR_ARGUMENT, not_ours);
    }
    return report(error, self->error.empty() ? LCG_OK : LCG_ERROR_MEMORY, self->error.c_str());
}
