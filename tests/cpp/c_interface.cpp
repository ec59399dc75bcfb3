// Drives lcg.h as a program would, for tests/test_c_interface.py:
//
//     c_interface MODEL.gguf GATE.gguf MODE TOKENS...
//
// Each TOKENS is a prompt, "5,6,7". Prints a line for each reply: its tokens, steps, interventions, first event.
#include "replies.h"

#include <cstring>
#include <lcg.h>

namespace {

struct program {
    llama_model *   model   = nullptr;
    lcg_gate *      gate    = nullptr;
    lcg_tap *       tap     = nullptr;
    llama_context * context = nullptr;

    program(const char * model_path, const char * gate_path, uint32_t n_seq) {
        lcg_error error;
        model = llama_model_load_from_file(model_path, llama_model_default_params());
        gate  = lcg_gate_load(gate_path, "cpu", &error);
        if (gate == nullptr) {
            stop(error.message);
        }
        tap                         = lcg_tap_init(512);
        llama_context_params params = llama_context_default_params();
        params.n_ctx                = 256 * n_seq;
        params.n_batch              = 512;
        params.n_seq_max            = n_seq;
        params.cb_eval              = lcg_tap_eval;
        params.cb_eval_user_data    = tap;
        context                     = llama_init_from_model(model, params);
    }

    ~program() {
        llama_free(context);
        lcg_tap_free(tap);
        lcg_gate_free(gate);
        llama_model_free(model);
    }

    llama_sampler * sampler(lcg_params params = lcg_params_default()) const {
        llama_sampler * chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
        llama_sampler_chain_add(chain, llama_sampler_init_greedy());
        lcg_error       error;
        const bool      has_pin = params.pin != nullptr; // which needs no gate
        llama_sampler * made =
            lcg_sampler_init(has_pin ? nullptr : gate, has_pin ? nullptr : tap, context, chain, params, &error);
        if (made == nullptr) {
            stop(error.message);
        }
        return made;
    }
};

void print(const llama_sampler * sampler, const tokens_t & tokens) {
    for (const llama_token token : tokens) {
        std::printf("%d ", token);
    }
    const lcg_stats stats = lcg_sampler_stats(sampler);
    lcg_event       event = {};
    const uint32_t  n     = lcg_sampler_events(sampler, &event, 1);
    std::printf("| %d %d | %u %d %d %d\n", static_cast<int>(stats.steps), static_cast<int>(stats.interventions), n,
        static_cast<int>(event.position), event.removed, event.chosen);
}

// Those of PHASES in tests/test_c_interface.py.
lcg_phases * new_phases(const program & p, const lcg_pin * pin) {
    lcg_error    error;
    lcg_phases * phases = lcg_phases_init(p.model, &error);
    lcg_params   params = lcg_params_default();
    params.mode         = LCG_MODE_OBSERVE;
    require(lcg_phases_add(phases, "thinking", params, &error) == LCG_OK, "a phase that has a name");
    params.mode = LCG_MODE_OFF;
    require(lcg_phases_add_marks(phases, ", ", "и", false, params, &error) == LCG_OK, "marks of one's own");
    params           = lcg_params_default();
    params.pin       = pin;
    params.threshold = 0.9f;
    require(lcg_phases_add_marks(phases, "а", "", false, params, &error) == LCG_OK, "a phase without an end");
    return phases;
}

// One reply after the other, in a context that is cleared in between.
void one_by_one(const program & p, const std::string & mode, const std::vector<tokens_t> & prompts) {
    for (tokens_t tokens : prompts) {
        lcg_params params       = lcg_params_default();
        params.mode             = mode == "observe" ? LCG_MODE_OBSERVE : LCG_MODE_MASK;
        params.threshold        = mode == "strict" ? 0.9f : 0.0f;
        lcg_pin * pin           = mode == "pinned" ? lcg_pin_init(p.model, nullptr, "lowres, cj", nullptr) : nullptr;
        params.pin              = pin;
        const bool   has_phases = mode == "phases" || mode == "phases accepted";
        lcg_pin *    inner      = has_phases ? lcg_pin_init(p.model, nullptr, "latin,cyrillic", nullptr) : nullptr;
        lcg_phases * phases     = has_phases ? new_phases(p, inner) : nullptr;
        params.phases           = phases;
        llama_sampler * sampler = p.sampler(params);
        llama_memory_clear(llama_get_memory(p.context), true);
        lcg_phases_free(phases); // the sampler has what it needs
        if (mode == "phases") {
            require(lcg_sampler_read_prompt(sampler, tokens.data(), tokens.size(), nullptr) == LCG_OK, "a prompt");
        }
        if (mode == "accepted" || mode == "phases accepted") { // as servers do, for penalties
            for (const llama_token token : tokens) {
                llama_sampler_accept(sampler, token);
            }
        }
        tokens_t    reply;
        llama_batch batch = llama_batch_get_one(tokens.data(), static_cast<int32_t>(tokens.size()));
        while (reply.size() < n_predict && llama_decode(p.context, batch) == 0) {
            if (mode == "clone" && reply.size() == 3) {
                llama_sampler * copy = llama_sampler_clone(sampler);
                llama_sampler_free(sampler);
                sampler = copy;
            }
            reply.push_back(llama_sampler_sample(sampler, p.context, -1));
            require(lcg_sampler_error(sampler, nullptr) == LCG_OK, "a step without an error");
            batch = llama_batch_get_one(&reply.back(), 1);
        }
        print(sampler, reply);
        if (mode == "reset") {
            llama_sampler_reset(sampler);
        }
        llama_sampler_free(sampler);
        lcg_pin_free(pin);
        lcg_pin_free(inner);
    }
}

void say(const char * what, const lcg_error & error) {
    std::printf("%s: %d %s\n", what, static_cast<int>(error.status), error.message);
}

void errors(const program & p, const char * model_path, const char * gate_path) {
    lcg_error error;
    require(lcg_gate_load("nowhere.gguf", "cpu", &error) == nullptr, "no file, no gate");
    say("missing", error);
    require(lcg_gate_load(model_path, "cpu", &error) == nullptr, "a model is not a gate");
    say("model", error);
    require(lcg_gate_load(gate_path, "abacus", &error) == nullptr, "no such device");
    say("device", error);
    require(lcg_gate_load(nullptr, "cpu", nullptr) == nullptr, "NULL, and nobody asks why");
    const auto refused = [&](const char * what, llama_sampler * chain, lcg_params params) {
        require(lcg_sampler_init(p.gate, p.tap, p.context, chain, params, &error) == nullptr, what);
        say(what, error);
    };
    llama_sampler * chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
    refused("empty chain", chain, lcg_params_default());
    llama_sampler_chain_add(chain, llama_sampler_init_top_k(40));
    refused("no choice", chain, lcg_params_default());
    require(llama_sampler_chain_n(chain) == 1, "a refused chain is left alone");
    llama_sampler_chain_add(chain, llama_sampler_init_greedy());
    lcg_params params = lcg_params_default();
    params.strength   = -1.0f;
    refused("strength", chain, params);
    params           = lcg_params_default();
    params.threshold = 1.0f;
    refused("threshold", chain, params);
    refused("no chain", nullptr, lcg_params_default());
    lcg_pin * everything = lcg_pin_init(p.model, "", nullptr, &error);
    require(everything != nullptr, "a pin that allows everything");
    lcg_pin_free(everything);
    require(lcg_pin_init(p.model, "klingon", nullptr, &error) == nullptr, "no such script");
    say("script", error);
    lcg_phases *     phases     = lcg_phases_init(p.model, &error);
    const lcg_params defaults   = lcg_params_default();
    const auto       say_status = [&](const char * what, lcg_status status) {
        require(status == LCG_ERROR_ARGUMENT, what);
        say(what, error);
    };
    say_status("part", lcg_phases_add(phases, "prose", defaults, &error));
    say_status("no marks", lcg_phases_add_marks(phases, "", nullptr, false, defaults, &error));
    say_status("mark", lcg_phases_add_marks(phases, std::string(257, 'x').c_str(), "", false, defaults, &error));
    params        = lcg_params_default();
    params.phases = phases;
    say_status("phases in a phase", lcg_phases_add(phases, "code", params, &error));
    params.phases   = nullptr;
    params.strength = -1.0f;
    say_status("strength of a phase", lcg_phases_add(phases, "code", params, &error));
    say_status("prompt", lcg_sampler_read_prompt(chain, nullptr, 0, &error));
    require(lcg_phases_init(nullptr, nullptr) == nullptr, "no model, no phases");
    lcg_phases_free(phases);
    lcg_phases_free(nullptr);
    require(lcg_sampler_stats(chain).steps == 0, "a chain of llama.cpp has no statistics");
    require(lcg_sampler_error(chain, &error) == LCG_ERROR_ARGUMENT, "nor an error");
    llama_sampler_free(chain);
    require(lcg_gate_check(p.gate, p.model, &error) == LCG_OK && error.message[0] == '\0', "the gate fits");
    require(std::strcmp(lcg_gate_family(p.gate, 0), "cj") == 0, "the first family");
    require(lcg_gate_family(p.gate, lcg_gate_n_families(p.gate)) == nullptr, "none behind the last");
    lcg_gate_free(nullptr);
    lcg_tap_free(nullptr);
}

} // namespace

int main(int argc, char ** argv) {
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    require(argc > 3, "MODEL GATE MODE");
    const std::string     mode = argv[3];
    std::vector<tokens_t> prompts;
    for (int i = 4; i < argc; i++) {
        prompts.push_back(parse(argv[i]));
    }
    const program p(argv[1], argv[2], mode == "slots" ? static_cast<uint32_t>(prompts.size()) : 1);
    if (mode == "errors") {
        errors(p, argv[1], argv[2]);
    } else if (mode == "slots") {
        in_slots(p.context, prompts, [&] { return p.sampler(); }, llama_sampler_sample, print);
    } else {
        one_by_one(p, mode, prompts);
    }
    return 0;
}
