// The state that the two stages of a sampling chain share.
#pragma once

#include "phases.h"
#include "pin.h"

#include <mutex>
#include <optional>

namespace lcg {

constexpr size_t max_event_tokens = 20; // removed, and left

// Adds up the statistics of all chains of a gate, also of those that are gone.
struct tally {
    stage_stats total();

    std::mutex                             lock; // taken before that of a state
    stage_stats                            gone;
    std::vector<const stage_pair::state *> live;
};

struct stage_pair::state {
    state(std::shared_ptr<const gate> gate, const stage_options & stage_options);
    state(const state & source); // a clone: its history goes on, its statistics begin
    ~state();

    // what the callbacks of llama_sampler_i do
    void on_shortlist(token_data_array * tokens);
    void on_gate(token_data_array * tokens);
    void on_accept(int32_t token);
    void set_options(const stage_options & stage_options);
    void begin_step(); // where the program drives the chain
    void forget();     // the history

    std::shared_ptr<const gate> model;
    stage_options               options;
    chain_facts                 facts;
    std::optional<evaluator>    mlp;             // none without weights
    size_t                      n_confident = 0; // the largest k of the confidence sets

    // history of the reply
    int      last     = no_family;
    uint64_t reply    = 0;
    uint64_t position = 0;

    open_character open; // what the newest token left of a character
    phase_reader   phases{nullptr};

    bool                 sampled = false; // a token was sampled that was not accepted yet
    std::vector<int32_t> prompt;          // the end of what was accepted before the first step, if `only_sampled`

    // this step
    const float *           row     = nullptr; // the logits of all candidates, by index
    size_t                  n_row   = 0;
    const token_data *      given   = nullptr; // the array of the candidates, and its size before anything acted
    size_t                  n_given = 0;
    const float *           hidden  = nullptr;
    const float *           logits  = nullptr; // [n_vocab], as the model gave them
    bool                    direct  = false;   // the array was built from the row: the shortlist is done
    std::vector<uint32_t>   top;               // indices into the row, largest first
    std::vector<token_data> best;              // ... as tokens; empty: the gate stays out of this step

    // scratch, kept from step to step
    std::vector<float>      z, copied_row;
    std::vector<uint8_t>    away;
    std::vector<token_data> array, kept;

    // results; the lock guards them against readers in other threads
    mutable std::mutex      lock;
    stage_stats             stats;
    stage_stats             before; // as they were before this step
    std::vector<gate_event> events; // a ring
    size_t                  n_events = 0;
    bool                    pending  = false; // the newest event waits for the chosen token
    std::string             error;            // of a callback, raised once the chain has run

    std::shared_ptr<state> clone_for_gate; // between the clones of a chain's two stages

    const conduct & now() const { return phases.open() != nullptr ? phases.open()->options : options.usual; }
    bool            acts() const { return model->acts() && now().mode != gate_mode::off && may_act(now().rules, last); }
    // Finds the best candidates of a row and builds the array from them; false if the array must be built whole.
    bool   build_direct(const float * logits);
    size_t n_wanted() const;        // tokens to look for
    bool   top_k_is_unique() const; // llama.cpp's own, unstable top-k would keep the same tokens in the same order
    void   make_ring();

  private:
    const pin *      bytes_of = nullptr; // a pin that follows the bytes of tokens, as all of a model do alike
    const uint8_t *  pinned_away();      // [n_vocab], null: no pin acts
    const float *    without_pinned(const float * logits, const uint8_t * pinned);
    void             remove_pinned(token_data_array * tokens);
    float            lowered(float logit) const;
    token_data_array survivors(token_data_array * tokens);
    void             evaluate();
    void             judge(token_data_array * tokens, const token_data_array & s, const family_set & present);
    void             record(const token_data_array & s, const ruling & found, double sum);
    gate_event *     new_event(const ruling & found);
};

} // namespace lcg
