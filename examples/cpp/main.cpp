// Continues a text with llama.cpp, without and with a Language Confusion Gate:
//
//     gated MODEL.gguf GATE.gguf "TEXT" [N_TOKENS]
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <lcg.h>
#include <llama.h>

static int fail(const char * message) {
    std::fprintf(stderr, "gated: error: %s\n", message);
    return 1;
}

static std::string piece(const llama_vocab * vocab, llama_token token) {
    char      bytes[256];
    const int n = llama_token_to_piece(vocab, token, bytes, sizeof bytes, 0, true);
    return std::string(bytes, n > 0 ? n : 0);
}

int main(int argc, char ** argv) {
    if (argc < 4) {
        return fail("usage: gated MODEL.gguf GATE.gguf \"TEXT\" [N_TOKENS]");
    }
    const int n_predict = argc > 4 ? std::atoi(argv[4]) : 64;
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    ggml_backend_load_all();

    llama_model * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (model == nullptr) {
        return fail("the model cannot be loaded");
    }
    lcg_error  error;
    lcg_gate * gate = lcg_gate_load(argv[2], "cpu", &error);
    if (gate == nullptr) {
        return fail(error.message);
    }

    // the tap goes in before the context is made
    lcg_tap *            tap    = lcg_tap_init(512);
    llama_context_params params = llama_context_default_params();
    params.n_ctx                = 2048;
    params.n_batch              = 512;
    params.cb_eval              = lcg_tap_eval;
    params.cb_eval_user_data    = tap;
    llama_context * context     = llama_init_from_model(model, params);

    // the chain as always; the gate goes in when it is finished
    llama_sampler * chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
    llama_sampler_chain_add(chain, llama_sampler_init_greedy());
    llama_sampler * sampler = lcg_sampler_init(gate, tap, context, chain, lcg_params_default(), &error);
    if (sampler == nullptr) {
        return fail(error.message);
    }

    const llama_vocab *      vocab = llama_model_get_vocab(model);
    const std::string        text  = argv[3];
    std::vector<llama_token> tokens(text.size() + 8);
    tokens.resize(
        llama_tokenize(vocab, text.data(), (int) text.size(), tokens.data(), (int) tokens.size(), true, true));
    llama_batch batch = llama_batch_get_one(tokens.data(), (int) tokens.size());
    for (int i = 0; i < n_predict && llama_decode(context, batch) == 0; i++) {
        llama_token token = llama_sampler_sample(sampler, context, -1);
        if (llama_vocab_is_eog(vocab, token)) {
            break;
        }
        std::fputs(piece(vocab, token).c_str(), stdout);
        tokens[0] = token;
        batch     = llama_batch_get_one(tokens.data(), 1);
    }

    const lcg_stats stats = lcg_sampler_stats(sampler);
    std::printf("\n");
    std::fprintf(stderr, "%llu tokens, %llu interventions\n", (unsigned long long) stats.steps,
        (unsigned long long) stats.interventions);
    lcg_event      events[16];
    const uint32_t n_events = lcg_sampler_events(sampler, events, 16);
    for (uint32_t i = 0; i < n_events; i++) {
        std::fprintf(stderr, "token %llu: %s instead of %s\n", (unsigned long long) events[i].position,
            piece(vocab, events[i].chosen).c_str(), piece(vocab, events[i].removed).c_str());
    }

    llama_sampler_free(sampler); // with its chain
    llama_free(context);
    lcg_tap_free(tap);
    lcg_gate_free(gate);
    llama_model_free(model);
    return 0;
}
