// What the files of the preload library share: the gate in programs that were not written for it.
//
//   preload.cpp         takes the place of llama.cpp's functions; taps the contexts
//   preload_chains.cpp  gives each chain its stages
//   preload_prompts.cpp keeps the prompt that a chain is told of before it has stages
//   preload_replies.cpp the history of a reply, where the program does not tell its chain
//   preload_models.cpp  which gate belongs to which model
//   preload_report.cpp  settings from the environment; lines on stderr; statistics
#pragma once

#include "c_interface.h"
#include "stage_pair.h"

namespace lcg {

// ---- settings (preload_report.cpp) ----

struct preload_settings {
    std::vector<std::string> gates; // LCG_GATE, paths
    std::string              device = "cpu";
    lcg_params               params = lcg_params_default();
    std::string              allow, deny; // LCG_ALLOW, LCG_DENY
    std::optional<lcg_mode>  thinking;    // LCG_WHILE_THINKING
    std::vector<std::string> alone;       // LCG_LEAVE_ALONE, names of parts
    std::string              stats;       // LCG_STATS: a file, "-" for stderr; empty: none
    bool                     is_strict = false;

    bool has_pin() const { return !allow.empty() || !deny.empty(); }
    bool has_phases() const { return thinking || !alone.empty(); }
    bool wants_anything() const { return !gates.empty() || has_pin(); }
};

const preload_settings & settings();

// One line on stderr.
void tell(const std::string & line);
// ... that says what is not gated: in strict mode the process ends with it.
void tell_ungated(const std::string & line);

// ---- models (preload_models.cpp) ----

// A model that tokens were sampled from.
struct known_model {
    const llama_model *         address;
    std::string                 name; // for messages
    size_t                      n_vocab;
    std::shared_ptr<const gate> fitting; // null: none fits
    stage_options               options;
    std::atomic<bool>           has_hidden{false}; // a hidden state was found once
    std::atomic<bool>           told{false};       // ... or its absence was told
    std::atomic<bool>           failed{false};     // an error of the gate was told
    std::atomic<bool>           lost{false};       // ... or that the history of a reply cannot be known
};

// Prints statistics when the process ends and on SIGUSR1, if they are wanted.
void start_reports();

// Loads the gates, once llama.cpp is there.
void load_gates();
// Whether a gate could want hidden states of this width.
bool may_want(size_t n_embd);
// Never null; it lives as long as the process.
known_model & model_of(const llama_model * model);

struct gate_report {
    std::string path, model; // no model: it was not used
    stage_stats stats;
};
std::vector<gate_report> gate_reports();

// ---- contexts (preload.cpp) ----

// The hidden state that a row of logits was computed from, copied for this thread; nullptr if it is not known.
const float * hidden_of(const float * logits, size_t n_vocab, size_t n_embd);

// ---- replies (preload_replies.cpp) ----

// Where a row of logits stands in what a context decodes.
struct place {
    llama_context * context  = nullptr;
    int32_t         sequence = -1; // -1: not known, nor are the next two
    int32_t         position = -1; // of the token that was decoded there
    int32_t         token    = -1;
    uint64_t        mark     = 0; // of the row's numbers
};

// What a context has decoded; null: it cannot be read.
void note_batch(llama_context * context, const token_batch * batch);
// The context is gone.
void drop_context(llama_context * context);
// Of a row among those of the context's newest batch, of which `first` is the first.
place place_of(llama_context * context, const float * first, const float * row, size_t n_vocab);

// What was sampled at a place.
void note_choice(const place & at, int32_t token, const shared_state & stages);
// The stages of another chain whose reply goes on at a place, because the token that was sampled was decoded there, and
// nobody accepted it; null if there is none.
shared_state stages_before(const place & at, const gate * model);
// Brings stages up to a place at which their chain is about to sample: a token that was decoded and not accepted is
// accepted now. False if the history cannot be known.
bool catch_up(stage_pair::state & stages, const place & at);

// ---- chains (preload_chains.cpp) ----

// Puts the gate into the table of functions that all chains of a llama.cpp share; it is not constant.
void replace_functions(void * library);
bool is_connected();

// Notes the row of logits that this thread looked at last: the one that it is about to sample from.
void see_row(llama_context * context, const float * row);

// The index of the program's i-th sampler in a chain that may hold stages, which the program does not see; i itself
// where it is no index.
int32_t index_in(llama_sampler * chain, int32_t i);
// How many samplers of a chain are the program's.
int32_t n_own(llama_sampler * chain);
// The program changed a chain: its stages look for their places again.
void note_change(llama_sampler * chain);

bool is_chain(const llama_sampler * sampler);
// llama.cpp copies chains part by part, but one of two may have got its stages after the other was cloned from it.
void make_alike(llama_sampler * source, llama_sampler * target);

// ---- prompts (preload_prompts.cpp) ----

// A listener is a sampler at the end of a chain that is told of its prompt before it can get its stages.
bool is_listener(const llama_sampler * part);
bool has_listener(llama_sampler * chain);
void add_listener(llama_sampler * chain);
// Removes it, and returns the end of the prompt.
std::vector<int32_t> take_prompt(llama_sampler * chain);

} // namespace lcg
