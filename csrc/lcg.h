// The Language Confusion Gate (arXiv 2510.17555) for programs that use llama.cpp: a C interface in its idiom.
//
//     struct lcg_gate * gate = lcg_gate_load("lcg-MODEL-F16.gguf", "cpu", &error);
//     struct lcg_tap *  tap  = lcg_tap_init(n_batch);
//
//     context_params.cb_eval           = lcg_tap_eval; // before llama_init_from_model
//     context_params.cb_eval_user_data = tap;
//
//     // a finished chain in, one sampler out, for llama_sampler_sample
//     struct llama_sampler * sampler = lcg_sampler_init(gate, tap, context, chain, lcg_params_default(), &error);
//
// The library links nothing of llama.cpp. It looks the functions up in the llama.cpp that the program has loaded, once,
// at the first call that needs them. Nothing here throws, aborts or prints.
#ifndef LCG_H
#define LCG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef LCG_API
// as the build says
#elif defined(_WIN32)
#ifdef LCG_BUILD
#define LCG_API __declspec(dllexport)
#else
#define LCG_API __declspec(dllimport)
#endif
#else
#define LCG_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

struct ggml_tensor;
struct llama_context;
struct llama_model;
struct llama_sampler;

struct lcg_pin;    // which scripts may come out: immutable, for any number of samplers of one model
struct lcg_phases; // parts of a reply with parameters of their own, for any number of samplers of one model
struct lcg_gate;   // the weights and the rules of a gate file: immutable, for any number of contexts and threads
struct lcg_tap;    // the newest hidden states of one context

enum lcg_status {
    LCG_OK = 0,
    LCG_ERROR_FILE,     // the gate file cannot be read, or is not valid
    LCG_ERROR_MODEL,    // the gate was made for another model
    LCG_ERROR_ARGUMENT, // a value that cannot be
    LCG_ERROR_HOST,     // llama.cpp is not there, or lacks a function
    LCG_ERROR_MEMORY,
};

// What went wrong, in one line. Every function that takes one accepts NULL.
struct lcg_error {
    enum lcg_status status;
    char            message[1020];
};

enum lcg_mode {
    LCG_MODE_MASK,    // removes what the gate bans
    LCG_MODE_OBSERVE, // decides and counts the same, and changes no token
    LCG_MODE_OFF,
};

// How the gate acts; the fields and their defaults are those of GateOptions in Python.
struct lcg_params {
    enum lcg_mode mode;
    float         strength;  // logits subtracted from banned families; INFINITY removes them
    float         threshold; // probability from which a family counts as predicted, anywhere; 0: as the gate file says
    float         confidence_temperature; // the lowest temperature at which the model's own plausible tokens are taken
    bool          persistence;            // act only after a language token, and keep that token's family allowed
    bool          confidence;             // act only where the model itself finds a predicted family plausible
    bool          first_token;            // act before the first language token too
    uint32_t      n_events;               // how many of the latest interventions are kept

    const struct lcg_pin *    pin;    // NULL: every script may come
    const struct lcg_phases * phases; // NULL: all of a reply is treated alike
};

struct lcg_stats {
    uint64_t steps;          // tokens sampled
    uint64_t gate_runs;      // steps on which the MLP was evaluated
    uint64_t interventions;  // steps on which a family was removed
    uint64_t not_confident;  // bans that the confidence rule stopped
    uint64_t without_hidden; // steps on which the gate was wanted and no hidden state was there
    uint64_t pin_yields;     // steps on which the pin left no token, so it was not applied
    double   removed_mass;   // probability removed, summed over interventions
    double   gate_seconds;   // spent in the MLP
};

// An intervention.
struct lcg_event {
    uint64_t reply;        // counts the calls of llama_sampler_reset
    uint64_t position;     // of the token in its reply
    int32_t  last;         // family of the language token before, -1: there was none
    uint64_t predicted[2]; // families as bits, the first in the lowest bit
    uint64_t allowed[2];
    uint64_t banned[2];
    int32_t  removed; // the most probable token that was removed
    float    removed_probability;
    int32_t  chosen; // -1 until it is accepted
};

LCG_API const char * lcg_version(void);

LCG_API struct lcg_params lcg_params_default(void);

// ---- a gate ----

// device: "cpu", "gpu" or "auto" (a GPU that can run the gate, or else the CPU). NULL if the file is not a valid gate.
LCG_API struct lcg_gate * lcg_gate_load(const char * path, const char * device, struct lcg_error * error);
LCG_API void              lcg_gate_free(struct lcg_gate * gate);

LCG_API int32_t      lcg_gate_n_families(const struct lcg_gate * gate);
LCG_API const char * lcg_gate_family(const struct lcg_gate * gate, int32_t family); // NULL where there is none

// Whether the gate was made for this model: architecture, widths and tokenizer all agree, however it is quantized.
LCG_API enum lcg_status lcg_gate_check(
    const struct lcg_gate * gate, const struct llama_model * model, struct lcg_error * error);

// ---- a pin ----

// Restricts the letters of a reply, with or without a gate, exact to the byte. allow: no others may come; deny: these
// must not. Both are names of scripts with commas between, such as "latin,hangul" or "chinese" (`lcg-cpp families
// --rules scripts` lists them); NULL or "": all may come, none is denied. The pin must outlive its samplers.
LCG_API struct lcg_pin * lcg_pin_init(
    const struct llama_model * model, const char * allow, const char * deny, struct lcg_error * error);
LCG_API void lcg_pin_free(struct lcg_pin * pin);

// ---- phases ----

// Parts of a reply, such as thoughts and code, in which other parameters hold. A phase begins behind its first mark and
// ends behind its second one, however tokens divide them; within it only the mark that ends it counts. Where it begins
// or ends, the gate forgets the language before. Samplers copy what they need when they are made.
//
//     struct lcg_phases * phases = lcg_phases_init(model, &error);
//     params.mode                = LCG_MODE_OBSERVE;
//     lcg_phases_add(phases, "thinking", params, &error);
LCG_API struct lcg_phases * lcg_phases_init(const struct llama_model * model, struct lcg_error * error);
LCG_API void                lcg_phases_free(struct lcg_phases * phases);

// name: "thinking", "code" (between fences) or "tool_calls", for the marks that models use. Where two phases begin at
// once, the first one added does. Of params, `phases` must be NULL and `n_events` has no meaning.
LCG_API enum lcg_status lcg_phases_add(
    struct lcg_phases * phases, const char * name, struct lcg_params params, struct lcg_error * error);

// ... with marks of your own: text, at most 256 bytes, control tokens as they are written. "" as `begin` begins the
// phase with the reply, as `end` ends it with the reply. leading: the first mark counts only where nothing but white
// space stands before it, at the start of the reply or behind another phase.
LCG_API enum lcg_status lcg_phases_add_marks(struct lcg_phases * phases, const char * begin, const char * end,
    bool leading, struct lcg_params params, struct lcg_error * error);

// ---- a tap ----

// n_rows: the most logits rows of one llama_decode; n_batch is always enough. One tap serves one context and must
// outlive it and its samplers.
LCG_API struct lcg_tap * lcg_tap_init(uint32_t n_rows);
LCG_API void             lcg_tap_free(struct lcg_tap * tap);

// A ggml_backend_sched_eval_callback: llama_context_params.cb_eval, with the tap as cb_eval_user_data.
LCG_API bool lcg_tap_eval(struct ggml_tensor * tensor, bool ask, void * tap);

// ---- a sampler ----

// Puts the gate into a finished chain and returns one sampler that owns the chain, for llama_sampler_sample,
// llama_sampler_apply and llama_sampler_free. The chain must end in a choice (greedy, dist, mirostat). One sampler for
// each sequence: llama_sampler_reset begins a reply; llama_sampler_clone copies the history too. Tokens that are
// accepted without having been sampled, such as those of a prompt, reach the chain and tell the gate which phase is
// open; it does not judge by them.
//
// gate and tap may be NULL where params, or one of its phases, has a pin.
//
// NULL if the gate was not made for the context's model, or the chain has no place for it; the chain is the caller's
// then, unchanged.
LCG_API struct llama_sampler * lcg_sampler_init(const struct lcg_gate * gate, struct lcg_tap * tap,
    struct llama_context * context, struct llama_sampler * chain, struct lcg_params params, struct lcg_error * error);

// Says what the reply continues, before its first token: where the prompt ends in the mark that begins a phase, as chat
// templates that begin a thought do, the phase is open from the start. Not needed where the program accepts the tokens
// of the prompt.
LCG_API enum lcg_status lcg_sampler_read_prompt(
    struct llama_sampler * sampler, const int32_t * tokens, size_t n_tokens, struct lcg_error * error);

// Counters and the latest interventions, oldest first, of a sampler of this library; `lcg_sampler_events` returns how
// many it wrote. Safe while another thread samples.
LCG_API struct lcg_stats lcg_sampler_stats(const struct llama_sampler * sampler);
LCG_API uint32_t lcg_sampler_events(const struct llama_sampler * sampler, struct lcg_event * events, uint32_t n_max);

// What the newest step of the sampler went wrong with, LCG_OK if nothing: that step sampled as without a gate.
LCG_API enum lcg_status lcg_sampler_error(const struct llama_sampler * sampler, struct lcg_error * error);

#ifdef __cplusplus
}
#endif

#endif
