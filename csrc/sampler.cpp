// The two stages as llama_sampler_i: thin callbacks around the state in step.cpp.
//
//   shortlist  before top-k: one fast pass over the logits finds the best candidates and cuts the array to them
//   gate       after top-p, before min-p: looks at the families of the survivors and, rarely, evaluates the gate
#include "stage_pair.h"

namespace lcg {

namespace {

stage_pair::state & state_of(const llama_sampler * sampler) {
    return **static_cast<shared_state *>(reinterpret_cast<const sampler_object *>(sampler)->ctx);
}

// Exceptions must not cross llama.cpp: they are kept and raised by stage_pair::sample.
template <typename F> void guarded(stage_pair::state & state, F run) {
    try {
        run();
    } catch (const std::exception & error) {
        state.error = error.what();
    }
}

const char * shortlist_name(const llama_sampler *) {
    return "lcg-shortlist";
}
const char * gate_name(const llama_sampler *) {
    return gate_stage_name;
}

void shortlist_accept(llama_sampler *, int32_t) {}
void gate_accept(llama_sampler * sampler, int32_t token) {
    stage_pair::state & state = state_of(sampler);
    guarded(state, [&] { state.on_accept(token); });
}

void shortlist_apply(llama_sampler * sampler, token_data_array * tokens) {
    stage_pair::state & state = state_of(sampler);
    guarded(state, [&] { state.on_shortlist(tokens); });
}
void gate_apply(llama_sampler * sampler, token_data_array * tokens) {
    stage_pair::state & state = state_of(sampler);
    guarded(state, [&] { state.on_gate(tokens); });
}

void shortlist_reset(llama_sampler *) {}
void gate_reset(llama_sampler * sampler) {
    state_of(sampler).forget();
}

// A chain keeps pointers to these two for as long as the process lives.
extern sampler_functions shortlist_functions;
extern sampler_functions gate_functions;

llama_sampler * new_sampler(sampler_functions & functions, shared_state state) {
    return host.llama_sampler_init(reinterpret_cast<llama_sampler_i *>(&functions), new shared_state(std::move(state)));
}

llama_sampler * shortlist_clone(const llama_sampler * sampler) {
    stage_pair::state & state = state_of(sampler);
    state.clone_for_gate      = std::make_shared<stage_pair::state>(state);
    return new_sampler(shortlist_functions, state.clone_for_gate);
}
llama_sampler * gate_clone(const llama_sampler * sampler) {
    stage_pair::state & state = state_of(sampler);
    shared_state        copy  = std::move(state.clone_for_gate);
    return new_sampler(gate_functions, copy ? copy : std::make_shared<stage_pair::state>(state));
}

void free_state(llama_sampler * sampler) {
    delete static_cast<shared_state *>(reinterpret_cast<sampler_object *>(sampler)->ctx);
}

sampler_functions shortlist_functions = {
    shortlist_name, shortlist_accept, shortlist_apply, shortlist_reset, shortlist_clone, free_state};
sampler_functions gate_functions = {gate_name, gate_accept, gate_apply, gate_reset, gate_clone, free_state};

} // namespace

llama_sampler * new_shortlist(const shared_state & state) {
    return new_sampler(shortlist_functions, state);
}
llama_sampler * new_gate_stage(const shared_state & state) {
    return new_sampler(gate_functions, state);
}

bool is_gate_stage(const llama_sampler * part) {
    return reinterpret_cast<const sampler_object *>(part)->iface ==
           reinterpret_cast<llama_sampler_i *>(&gate_functions);
}
bool is_shortlist(const llama_sampler * part) {
    return reinterpret_cast<const sampler_object *>(part)->iface ==
           reinterpret_cast<llama_sampler_i *>(&shortlist_functions);
}

const shared_state & state_in(const llama_sampler * stage) {
    return *static_cast<shared_state *>(reinterpret_cast<const sampler_object *>(stage)->ctx);
}

} // namespace lcg
