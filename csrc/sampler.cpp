// The two stages as llama_sampler_i: thin callbacks around the state in step.cpp.
//
//   shortlist  before top-k: one fast pass over the logits finds the best candidates and cuts the array to them
//   gate       after top-p, before min-p: looks at the families of the survivors and, rarely, evaluates the gate
#include "stage_pair.h"

namespace lcg {

namespace {

// One per stage: a chain frees its samplers one by one, the state lives as long as any of them or the Python object.
using shared_state = std::shared_ptr<stage_pair::state>;

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
    return "lcg-gate";
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

llama_sampler * new_sampler(const llama_sampler * like, shared_state state) {
    llama_sampler_i * iface = reinterpret_cast<const sampler_object *>(like)->iface;
    return host.llama_sampler_init(iface, new shared_state(std::move(state)));
}

// A clone has its own history and scratch. Nobody gives it hidden states, so a cloned chain samples as stock does, and
// it cannot reach into the chain it will stand in, so it does not probe mirostat.
shared_state clone_state(const stage_pair::state & source) {
    auto copy            = std::make_shared<stage_pair::state>(source.model, source.options);
    copy->facts          = source.facts;
    copy->facts.mirostat = nullptr;
    copy->last           = source.last;
    copy->reply          = source.reply;
    copy->position       = source.position;
    copy->open           = source.open;
    copy->phases         = source.phases;
    return copy;
}

llama_sampler * shortlist_clone(const llama_sampler * sampler) {
    stage_pair::state & state = state_of(sampler);
    state.clone_for_gate      = clone_state(state);
    return new_sampler(sampler, state.clone_for_gate);
}
llama_sampler * gate_clone(const llama_sampler * sampler) {
    stage_pair::state & state = state_of(sampler);
    shared_state        copy  = state.clone_for_gate ? std::move(state.clone_for_gate) : clone_state(state);
    state.clone_for_gate.reset();
    return new_sampler(sampler, std::move(copy));
}

void free_state(llama_sampler * sampler) {
    delete static_cast<shared_state *>(reinterpret_cast<sampler_object *>(sampler)->ctx);
}

template <typename F> void * address(F * function) {
    return reinterpret_cast<void *>(function);
}

} // namespace

stage_callbacks shortlist_callbacks() {
    return {address(shortlist_name), address(shortlist_accept), address(shortlist_apply), address(shortlist_reset),
        address(shortlist_clone), address(free_state)};
}

stage_callbacks gate_callbacks() {
    return {address(gate_name), address(gate_accept), address(gate_apply), address(gate_reset), address(gate_clone),
        address(free_state)};
}

} // namespace lcg
