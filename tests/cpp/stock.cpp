// A program that knows nothing of the gate, for tests/test_wrap.py:
//
//     stock MODE MODEL.gguf TOKENS...
//
// Each TOKENS is a prompt, "5,6,7". Prints the tokens of a greedy reply for each. In mode `beside` the first of them is
// a second model, which replies too.
#include "replies.h"

#include <cmath>
#include <cstring>
#include <dlfcn.h>

namespace {

void print(const tokens_t & tokens) {
    for (const llama_token token : tokens) {
        std::printf("%d ", token);
    }
    std::printf("\n");
}

// The program's own callback: counts what it wanted and got.
struct watcher {
    int wanted = 0, got = 0;

    static bool on_tensor(ggml_tensor * tensor, bool ask, void * data) {
        auto &     self = *static_cast<watcher *>(data);
        const bool mine = std::strcmp(tensor->name, "result_norm") == 0 || std::strcmp(tensor->name, "l_out-0") == 0;
        self.wanted += ask && mine;
        self.got += !ask;
        require(ask || mine, "only what was wanted is handed over");
        return mine;
    }
};

struct program {
    llama_model *   model   = nullptr;
    llama_context * context = nullptr;
    watcher         watch;

    program(const char * path, uint32_t n_seq, uint32_t n_ubatch, bool watches) {
        model                       = llama_model_load_from_file(path, llama_model_default_params());
        llama_context_params params = llama_context_default_params();
        params.n_ctx                = 256 * n_seq;
        params.n_batch              = 512;
        params.n_ubatch             = n_ubatch;
        params.n_seq_max            = n_seq;
        params.cb_eval              = watches ? watcher::on_tensor : nullptr;
        params.cb_eval_user_data    = watches ? &watch : nullptr;
        context                     = llama_init_from_model(model, params);
        require(context != nullptr, "a context");
    }

    ~program() {
        llama_free(context);
        llama_model_free(model);
    }
};

llama_sampler * new_chain() {
    llama_sampler * chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
    llama_sampler_chain_add(chain, llama_sampler_init_top_k(40));
    llama_sampler_chain_add(chain, llama_sampler_init_temp(0.0f));
    llama_sampler_chain_add(chain, llama_sampler_init_dist(1));
    return chain;
}

// Samples as llama-server does: its own array of candidates, a grammar (here: token 0 never) outside of the chain.
llama_token choose(llama_sampler * chain, llama_context * context, int32_t row) {
    const float *                 logits  = llama_get_logits_ith(context, row);
    const int32_t                 n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(context)));
    std::vector<llama_token_data> candidates;
    for (llama_token id = 0; id < n_vocab; id++) {
        candidates.push_back({id, id == 0 ? -INFINITY : logits[id], 0.0f});
    }
    llama_token_data_array array = {candidates.data(), candidates.size(), -1, false};
    llama_sampler_apply(chain, &array);
    require(array.data == candidates.data(), "the program's own array is left where it is");
    return array.data[array.selected].id;
}

llama_token sample_array(llama_sampler * chain, llama_context * context, int32_t row) {
    const llama_token token = choose(chain, context, row);
    llama_sampler_accept(chain, token);
    return token;
}

// Builds a chain anew from the samplers of another one.
llama_sampler * rebuilt(llama_sampler * chain) {
    llama_sampler * other = llama_sampler_chain_init(llama_sampler_chain_default_params());
    require(llama_sampler_chain_n(chain) == 3, "a program sees its own samplers");
    require(llama_sampler_chain_get(chain, 3) == nullptr, "and no other ones");
    llama_sampler * const last = llama_sampler_chain_get(chain, 2);
    while (llama_sampler_chain_n(chain) > 0) {
        llama_sampler_chain_add(other, llama_sampler_chain_remove(chain, 0));
    }
    require(llama_sampler_chain_get(other, 2) == last, "they are taken out in their order");
    llama_sampler_free(chain);
    return other;
}

using decode_t = int32_t (*)(llama_context *, llama_batch);

// Replies as node-llama-cpp does, which accepts nothing. `rebuilt`: builds its chain anew for every third token, and
// gives positions. `changed`: takes a sampler of a chain and puts it back. `silent`: one chain for all replies.
std::vector<tokens_t> silent_replies(
    const program & p, const std::vector<tokens_t> & prompts, const std::string & mode, decode_t decode) {
    std::vector<tokens_t> replies;
    llama_sampler *       chain = new_chain();
    llama_batch           batch = llama_batch_init(256, 0, 1);
    for (const tokens_t & prompt : prompts) {
        llama_memory_clear(llama_get_memory(p.context), true);
        if (mode == "rebuilt") {
            llama_sampler_free(chain);
            chain = new_chain();
        }
        tokens_t  reply, next = prompt;
        llama_pos position = 0;
        while (reply.size() < n_predict) {
            llama_batch one = llama_batch_get_one(next.data(), static_cast<int32_t>(next.size()));
            if (mode == "rebuilt") {
                batch.n_tokens = 0;
                for (const llama_token token : next) {
                    const int32_t i    = batch.n_tokens++;
                    batch.token[i]     = token;
                    batch.pos[i]       = position++;
                    batch.n_seq_id[i]  = 1;
                    batch.seq_id[i][0] = 0;
                    batch.logits[i]    = i + 1 == static_cast<int32_t>(next.size());
                }
                one = batch;
            }
            require(decode(p.context, one) == 0, "a batch");
            choose(chain, p.context, -1); // the same row twice
            reply.push_back(choose(chain, p.context, -1));
            next = {reply.back()};
            if (mode == "rebuilt" && reply.size() % 3 == 0) {
                chain = rebuilt(chain);
            } else if (mode == "changed") {
                llama_sampler_chain_add(chain, llama_sampler_chain_remove(chain, 2));
            }
        }
        replies.push_back(reply);
    }
    llama_batch_free(batch);
    llama_sampler_free(chain);
    return replies;
}

tokens_t reply(const program & p, tokens_t prompt, const std::string & mode) {
    llama_sampler * chain = new_chain();
    llama_memory_clear(llama_get_memory(p.context), true);
    tokens_t    tokens;
    llama_batch batch = llama_batch_get_one(prompt.data(), static_cast<int32_t>(prompt.size()));
    if (mode == "array" || mode == "clone") {
        for (const llama_token token : prompt) { // for penalties
            llama_sampler_accept(chain, token);
        }
    }
    if (mode == "clone") { // before anything was sampled
        llama_sampler * copy = llama_sampler_clone(chain);
        llama_sampler_reset(chain);
        llama_sampler_copy(copy, chain);
        llama_sampler_free(copy);
    }
    while (tokens.size() < n_predict && llama_decode(p.context, batch) == 0) {
        if (mode == "drafts") { // a token too many is taken back, and sampled once more
            llama_sampler * saved = llama_sampler_clone(chain);
            llama_sampler_sample(chain, p.context, -1);
            llama_sampler_copy(saved, chain);
            llama_sampler_free(saved);
        }
        tokens.push_back(
            mode == "array" ? sample_array(chain, p.context, -1) : llama_sampler_sample(chain, p.context, -1));
        batch = llama_batch_get_one(&tokens.back(), 1);
    }
    llama_sampler_free(chain);
    return tokens;
}

// A context that gives embeddings works beside the other one.
std::vector<float> embedding(llama_model * model, tokens_t tokens) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx                = 256;
    params.embeddings           = true;
    params.pooling_type         = LLAMA_POOLING_TYPE_MEAN;
    llama_context * context     = llama_init_from_model(model, params);
    llama_batch     batch       = llama_batch_get_one(tokens.data(), static_cast<int32_t>(tokens.size()));
    require(llama_decode(context, batch) == 0, "a batch of embeddings");
    const float *            values = llama_get_embeddings_seq(context, 0);
    const std::vector<float> copy(values, values + llama_model_n_embd(model));
    llama_free(context);
    return copy;
}

} // namespace

int main(int argc, char ** argv) {
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    ggml_backend_load_all();
    const std::string     mode = argc > 1 ? argv[1] : "";
    std::vector<tokens_t> prompts;
    for (int i = mode == "beside" ? 4 : 3; i < argc; i++) {
        prompts.push_back(parse(argv[i]));
    }
    if (mode == "nothing") {
        return 0;
    }
    program p(argv[2], mode == "slots" ? static_cast<uint32_t>(prompts.size()) : 1, mode == "micro" ? 3 : 512,
        mode == "watch");
    if (mode == "slots") {
        in_slots(p.context, prompts, new_chain, sample_array,
            [](const llama_sampler *, const tokens_t & tokens) { print(tokens); });
        return 0;
    }
    if (mode == "beside") {
        const program other(argv[3], 1, 512, false);
        print(reply(p, prompts[0], mode));
        print(reply(other, prompts[0], mode));
        return 0;
    }
    if (mode == "silent" || mode == "rebuilt" || mode == "changed" || mode == "unseen") {
        Dl_info llama{}; // whose own llama_decode nobody sees
        dladdr(reinterpret_cast<void *>(&llama_model_load_from_file), &llama);
        void * const library = dlopen(llama.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
        const auto   unseen  = reinterpret_cast<decode_t>(dlsym(library, "llama_decode"));
        require(library != nullptr && unseen != nullptr, "llama.cpp's own llama_decode");
        for (const tokens_t & tokens : silent_replies(p, prompts, mode, mode == "unseen" ? unseen : llama_decode)) {
            print(tokens);
        }
        return 0;
    }
    for (const tokens_t & prompt : prompts) {
        if (mode == "embeddings") {
            std::printf("%a %a\n", embedding(p.model, prompt)[0], embedding(p.model, prompt)[1]);
        }
        print(reply(p, prompt, mode));
    }
    if (mode == "watch") {
        require(p.watch.wanted > 0 && p.watch.wanted == p.watch.got, "the program's own callback gets what it wants");
    }
    if (mode == "signal") {
        std::fflush(stdout);
        std::getchar();
    }
}
