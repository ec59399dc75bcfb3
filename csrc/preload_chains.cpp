// The preload library: gives each chain its stages when it is first applied, because then it is finished.
#include "preload.h"

#include "text.h"

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>
#include <unordered_set>

namespace lcg {
namespace {

// The row of logits that this thread looked at last: the one that it is about to sample from.
thread_local struct {
    llama_context * context = nullptr;
    const float *   row     = nullptr;
    const float *   first   = nullptr; // row of the same evaluation
} seen;

std::mutex changed_lock;
auto &     changed = *new std::unordered_set<const llama_sampler *>; // chains with stages, by the program

sampler_functions * chain_functions                           = nullptr; // of all chains
void (*apply_real_chain)(llama_sampler *, token_data_array *) = nullptr;
void (*accept_in_real_chain)(llama_sampler *, int32_t)        = nullptr;

// Of the stages in a chain; null if there are none.
const shared_state * stages_in(llama_sampler * chain) {
    for (int32_t i = 0; i < host.llama_sampler_chain_n(chain); i++) {
        const llama_sampler * part = host.llama_sampler_chain_get(chain, i);
        if (is_gate_stage(part)) {
            return &state_in(part);
        }
    }
    return nullptr;
}

// Whether the program has put a gate into a chain by itself, with a liblcg or lcg_cpp of its own.
bool has_other_gate(llama_sampler * chain) {
    for (int32_t i = 0; i < host.llama_sampler_chain_n(chain); i++) {
        const auto * part = reinterpret_cast<const sampler_object *>(host.llama_sampler_chain_get(chain, i));
        const auto   name = reinterpret_cast<const sampler_functions *>(part->iface)->name;
        if (name != nullptr && std::string(name(reinterpret_cast<const llama_sampler *>(part))) == gate_stage_name) {
            return true;
        }
    }
    return false;
}

// Ours, not the program's.
bool is_stage(const llama_sampler * part) {
    return is_gate_stage(part) || is_shortlist(part) || is_listener(part);
}

void remove_stages(llama_sampler * chain) {
    for (int32_t i = host.llama_sampler_chain_n(chain) - 1; i >= 0; i--) {
        const llama_sampler * part = host.llama_sampler_chain_get(chain, i);
        if (is_stage(part)) {
            host.llama_sampler_free(host.llama_sampler_chain_remove(chain, i));
        }
    }
}

// Puts stages into a chain that is applied for the first time, or was changed; null if it cannot have them.
const shared_state * gate_chain(llama_sampler * chain, const known_model & model, shared_state state, bool goes_on) {
    try {
        const std::vector<int32_t> prompt = take_prompt(chain);
        stage_pair      stages = state ? stage_pair(std::move(state)) : stage_pair(model.fitting, model.options);
        const placement place  = insert_stages(chain, stages.shared(), std::nullopt, std::nullopt);
        stages.begin_reply(place.facts, goes_on);
        if (!goes_on) {
            stages.read_prompt(prompt);
        }
        return stages_in(chain);
    } catch (const std::exception & error) {
        static std::atomic<bool> told{false};
        if (!told.exchange(true)) {
            tell_ungated(joined("a chain of samplers is not gated: ", error.what()));
        }
        return nullptr;
    }
}

bool take_change(const llama_sampler * chain) {
    const std::lock_guard<std::mutex> guard(changed_lock);
    return changed.erase(chain) != 0;
}

// The stages that a chain has, or gets, for sampling at a place; null if there are none.
const shared_state * stages_for(llama_sampler * chain, const known_model & model, const place & at) {
    const shared_state * stages     = stages_in(chain);
    const bool           is_changed = take_change(chain);
    if (stages != nullptr && is_changed) {
        const shared_state kept = *stages;
        remove_stages(chain);
        return gate_chain(chain, model, kept, true);
    }
    if (stages != nullptr || has_other_gate(chain)) {
        return stages;
    }
    const shared_state before = stages_before(at, model.fitting.get());
    return gate_chain(chain, model, before ? std::make_shared<stage_pair::state>(*before) : nullptr, before != nullptr);
}

const float * row_behind(const token_data_array & tokens, size_t n_vocab) {
    if (seen.row == nullptr || tokens.size == 0) {
        return nullptr;
    }
    return is_row(tokens, seen.row, n_vocab) ? seen.row : find_row(seen.context, tokens, n_vocab);
}

void accept_in_chain(llama_sampler * chain, int32_t token) {
    if (stages_in(chain) == nullptr && !has_listener(chain) && !has_other_gate(chain)) {
        add_listener(chain);
    }
    accept_in_real_chain(chain, token);
}

void apply_chain(llama_sampler * chain, token_data_array * tokens) {
    if (seen.row == nullptr) {
        return apply_real_chain(chain, tokens);
    }
    known_model &        model  = model_of(host.llama_get_model(seen.context));
    const float *        row    = model.fitting ? row_behind(*tokens, model.n_vocab) : nullptr;
    const place          at     = row != nullptr ? place_of(seen.context, seen.first, row, model.n_vocab) : place{};
    const shared_state * stages = row != nullptr ? stages_for(chain, model, at) : stages_in(chain);
    if (stages == nullptr) {
        return apply_real_chain(chain, tokens);
    }
    stage_pair::state & state    = **stages;
    const bool          is_told  = row == nullptr || catch_up(state, at);
    const bool          is_known = is_told && (at.sequence >= 0 || !model.lost);
    if (!is_told && !model.lost.exchange(true)) {
        tell_ungated(joined(model.name, ": is not gated: the program does not accept the tokens that it samples, and"
                                        " does not decode them with `llama_decode`, so nobody knows the reply so far"));
    }
    state.begin_step();
    if (row != nullptr && is_known && state.model->weights) {
        state.hidden = hidden_of(row, model.n_vocab, state.model->config.n_embd);
        if (state.hidden != nullptr) {
            model.has_hidden = true;
        } else if (!model.has_hidden && !model.told.exchange(true)) {
            tell_ungated(joined(model.name, ": llama.cpp's graph handed over no hidden state (its architecture does not"
                                            " name `result_norm`, or keeps it elsewhere)"));
        }
    }
    if (state.facts.end == chain_end::mirostat) { // a clone does not know the chain it stands in
        state.facts.mirostat = host.llama_sampler_chain_get(chain, host.llama_sampler_chain_n(chain) - 1);
    }
    apply_real_chain(chain, tokens);
    state.hidden = nullptr;
    if (row != nullptr && tokens->selected >= 0 && static_cast<size_t>(tokens->selected) < tokens->size) {
        note_choice(at, tokens->data[tokens->selected].id, *stages);
    }
    if (!state.error.empty() && !model.failed.exchange(true)) {
        tell_ungated(joined(model.name, ": a step was sampled without the gate: ", state.error));
    }
}

} // namespace

bool is_connected() {
    return apply_real_chain != nullptr;
}

void see_row(llama_context * context, const float * row) {
    seen = {context, row, row != nullptr && is_connected() ? host.llama_get_logits(context) : nullptr};
}

int32_t index_in(llama_sampler * chain, int32_t i) {
    int32_t k = 0, left = i;
    for (const int32_t n = host.llama_sampler_chain_n(chain); i >= 0 && k < n; k++) {
        if (!is_stage(host.llama_sampler_chain_get(chain, k)) && left-- == 0) {
            return k;
        }
    }
    return i < 0 ? i : k;
}

int32_t n_own(llama_sampler * chain) {
    int32_t n = 0;
    for (int32_t k = 0; k < host.llama_sampler_chain_n(chain); k++) {
        n += !is_stage(host.llama_sampler_chain_get(chain, k));
    }
    return n;
}

void note_change(llama_sampler * chain) {
    if (stages_in(chain) != nullptr) {
        const std::lock_guard<std::mutex> guard(changed_lock);
        changed.insert(chain);
    }
}

bool is_chain(const llama_sampler * sampler) {
    return sampler != nullptr && reinterpret_cast<sampler_functions *>(
                                     reinterpret_cast<const sampler_object *>(sampler)->iface) == chain_functions;
}

void make_alike(llama_sampler * source, llama_sampler * target) {
    const shared_state * stages = stages_in(source);
    if (stages == nullptr) {
        remove_stages(target);
        if (has_listener(source)) {
            add_listener(target);
        }
    } else if (stages_in(target) == nullptr) {
        take_prompt(target);
        insert_stages(target, std::make_shared<stage_pair::state>(**stages), std::nullopt, std::nullopt);
    }
}

void replace_functions(void * library) {
    struct parameters {
        bool no_perf;
    };
    using chain_init      = llama_sampler * (*)(parameters);
    const auto      init  = reinterpret_cast<chain_init>(dlsym(library, "llama_sampler_chain_init"));
    llama_sampler * chain = init != nullptr ? init({true}) : nullptr;
    if (chain == nullptr) {
        throw no_host("llama.cpp's function `llama_sampler_chain_init` is not there");
    }
    auto * functions = reinterpret_cast<sampler_functions *>(reinterpret_cast<sampler_object *>(chain)->iface);
    host.llama_sampler_free(chain);
    const auto page  = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const auto begin = reinterpret_cast<uintptr_t>(functions) & ~(page - 1);
    const auto end   = reinterpret_cast<uintptr_t>(&functions->reset);
    if (mprotect(reinterpret_cast<void *>(begin), end - begin, PROT_READ | PROT_WRITE) != 0) {
        throw no_host("llama.cpp's table of functions cannot be changed");
    }
    chain_functions      = functions;
    accept_in_real_chain = functions->accept;
    apply_real_chain     = functions->apply;
    functions->apply     = apply_chain;
    if (settings().has_phases()) {
        functions->accept = accept_in_chain;
    }
}

} // namespace lcg
