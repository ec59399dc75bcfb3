// A library that calls itself llama.cpp, for tests/test_wrap.py: as the gate knows it, or with one structure that is
// laid out in another way. The test adds the functions that only have to be there.
#include <cstddef>
#include <cstdint>

#ifndef DIFFERS
#define DIFFERS 0 // 1: llama_sampler, 2: llama_sampler_i, 3: llama_token_data, 4: llama_token_data_array
#endif

struct llama_token_data {
    int32_t id;
#if DIFFERS == 3
    float p, logit;
#else
    float logit, p;
#endif
};

struct llama_token_data_array {
    llama_token_data * data;
    size_t             size;
#if DIFFERS == 4
    bool    sorted;
    int64_t selected;
#else
    int64_t selected;
    bool    sorted;
#endif
};

struct llama_sampler;

struct llama_sampler_i {
#if DIFFERS == 2
    const void * version;
#endif
    const char * (*name)(const llama_sampler *);
    void (*accept)(llama_sampler *, int32_t);
    void (*apply)(llama_sampler *, llama_token_data_array *);
    void (*reset)(llama_sampler *);
    llama_sampler * (*clone)(const llama_sampler *);
    void (*free)(llama_sampler *);
};

struct llama_sampler {
#if DIFFERS == 1
    size_t            n_users;
    llama_sampler_i * iface;
#else
    llama_sampler_i * iface;
    void *            ctx;
#endif
};

namespace {

void choose(llama_sampler *, llama_token_data_array * tokens) {
    tokens->selected = 0;
    for (size_t i = 0; i < tokens->size; i++) {
        if (tokens->data[i].logit > tokens->data[tokens->selected].logit) {
            tokens->selected = static_cast<int64_t>(i);
        }
    }
}

const char * name(const llama_sampler *) {
    return "chain";
}
void            accept(llama_sampler *, int32_t) {}
void            reset(llama_sampler *) {}
llama_sampler * clone(const llama_sampler *) {
    return nullptr;
}
void free_nothing(llama_sampler *) {}

llama_sampler_i table = {
#if DIFFERS == 2
    nullptr,
#endif
    name, accept, choose, reset, clone, free_nothing};
#if DIFFERS == 1
llama_sampler only = {1, &table};
#else
llama_sampler only = {&table, nullptr};
#endif

} // namespace

extern "C" {

llama_sampler * llama_sampler_chain_init(bool) {
    return &only;
}
llama_sampler * llama_sampler_init_greedy() {
    return &only;
}
void llama_sampler_chain_add(llama_sampler *, llama_sampler *) {}
void llama_sampler_free(llama_sampler *) {}
void llama_sampler_apply(llama_sampler * sampler, llama_token_data_array * tokens) {
    sampler->iface->apply(sampler, tokens);
}

void ggml_backend_sched_set_eval_callback(void *, void *, void *) {}

void make_context() {
    ggml_backend_sched_set_eval_callback(nullptr, nullptr, nullptr);
}
}
