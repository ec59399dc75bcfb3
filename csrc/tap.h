// Hidden states, caught while llama.cpp computes them (tap.cpp).
#pragma once

#include "core.h"

#include <atomic>

namespace lcg {

// Keeps the newest hidden states of one llama_context, whose graph callback it is. What it cannot vouch for it does not
// give: a row counts only if every output of the context's newest evaluation was captured.
//
// With several sequences in a batch llama.cpp may keep the logits in another order than that of the graph's rows. A tap
// with `keys` also keeps a few logits of each row, and finds a row by them.
class tap {
  public:
    explicit tap(size_t capacity, bool keys = false) : capacity_(capacity), has_keys_(keys) {}

    // ggml_backend_sched_eval_callback; user_data is the tap
    static bool on_tensor(ggml_tensor * tensor, bool ask, void * user_data);

    std::atomic<bool> active{false}; // copy nothing otherwise

    void   set_capacity(size_t n_rows);
    void   forget();
    size_t capacity() const { return capacity_; }
    size_t n_embd() const { return n_embd_; } // of the newest evaluation, 0 before the first

    // The row captured `back` rows before the newest one; nullptr if it is not there. Valid until the next evaluation.
    const float * newest(size_t back);
    // The hidden state that `logits` [n_vocab], a row of the context's newest evaluation, was computed from.
    const float * row_of(llama_context * context, const float * logits, size_t n_vocab);
    // ... by its key, whatever the context; needs keys.
    const float * row_like(const float * logits, size_t n_vocab) const;

  private:
    void    capture(ggml_tensor * tensor, bool may_be_pooled);
    void    capture_keys(ggml_tensor * logits);
    float * key_of(size_t row) { return &keys_[row % capacity_ * n_key]; }

    static constexpr size_t n_key = 32; // logits in the middle of the vocabulary

    size_t             capacity_; // rows: the largest batch
    bool               has_keys_;
    size_t             n_embd_   = 0;
    size_t             n_newest_ = 0;     // rows of the newest graph, which have no keys yet
    size_t             n_rows_   = 0;     // captured since the first evaluation after a row was read
    bool               read_     = false; // a row was read since the newest evaluation
    std::vector<float> rows_, keys_;      // rings
};

// Whether these candidates were made from this row of logits. A grammar may have forbidden some.
bool is_row(const token_data_array & tokens, const float * row, size_t n_vocab);
// The row of the context's newest logits that they were made from; nullptr if there is none.
const float * find_row(llama_context * context, const token_data_array & tokens, size_t n_vocab);

} // namespace lcg
