// The preload library: keeps the prompt that a program accepts into a chain before the chain gets its stages. Whatever
// llama.cpp does with the chain, it does with the listener too.
#include "preload.h"

namespace lcg {
namespace {

using tokens = std::vector<int32_t>;

tokens & heard_by(const llama_sampler * listener) {
    return *static_cast<tokens *>(reinterpret_cast<const sampler_object *>(listener)->ctx);
}

const char * listener_name(const llama_sampler *) {
    return "lcg-prompt";
}
void listener_accept(llama_sampler * listener, int32_t token) {
    add_to_end(heard_by(listener), token);
}
void listener_apply(llama_sampler *, token_data_array *) {}
void listener_reset(llama_sampler * listener) {
    heard_by(listener).clear();
}
void listener_free(llama_sampler * listener) {
    delete &heard_by(listener);
}

llama_sampler * listener_clone(const llama_sampler * listener);

sampler_functions listener_functions = {
    listener_name, listener_accept, listener_apply, listener_reset, listener_clone, listener_free};

llama_sampler * new_listener(tokens heard) {
    heard.reserve(n_prompt_end);
    return host.llama_sampler_init(
        reinterpret_cast<llama_sampler_i *>(&listener_functions), new tokens(std::move(heard)));
}

llama_sampler * listener_clone(const llama_sampler * listener) {
    return new_listener(heard_by(listener));
}

// Its index; -1: there is none.
int32_t find_listener(llama_sampler * chain) {
    int32_t i = host.llama_sampler_chain_n(chain) - 1;
    while (i >= 0 && !is_listener(host.llama_sampler_chain_get(chain, i))) {
        i--;
    }
    return i;
}

} // namespace

bool is_listener(const llama_sampler * part) {
    return reinterpret_cast<const sampler_object *>(part)->iface ==
           reinterpret_cast<llama_sampler_i *>(&listener_functions);
}

bool has_listener(llama_sampler * chain) {
    return find_listener(chain) >= 0;
}

void add_listener(llama_sampler * chain) {
    host.llama_sampler_chain_add(chain, new_listener({}));
}

std::vector<int32_t> take_prompt(llama_sampler * chain) {
    const int32_t i = find_listener(chain);
    if (i < 0) {
        return {};
    }
    llama_sampler * listener = host.llama_sampler_chain_remove(chain, i);
    tokens          heard    = heard_by(listener);
    host.llama_sampler_free(listener);
    return heard;
}

} // namespace lcg
