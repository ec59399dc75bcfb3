// The tap: copies hidden states out of llama.cpp's graphs while they are computed, and finds the one of a given row of
// logits. llama.cpp names the state after the final norm `result_norm`; its rows are those of the logits.
#include "core.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace lcg {

namespace {

// A context that gives embeddings of tokens calls the same tensor by another name.
bool is_hidden_state(const char * name) {
    return std::strcmp(name, "result_norm") == 0 || std::strcmp(name, "result_embd_pooled") == 0;
}

} // namespace

bool tap::on_tensor(ggml_tensor * tensor, bool ask, void * user_data) {
    if (!is_hidden_state(host.ggml_get_name(tensor))) {
        return !ask;
    }
    auto & self = *static_cast<tap *>(user_data);
    if (!self.active) {
        self.forget(); // what is kept belongs to an earlier evaluation
        return !ask;
    }
    if (!ask) {
        try {
            self.capture(tensor);
        } catch (const std::bad_alloc &) { // must not cross llama.cpp
            self.forget();
        }
    }
    return true;
}

void tap::capture(ggml_tensor * tensor) {
    const auto n = static_cast<size_t>(host.ggml_nrows(tensor));
    if (n == 0) {
        return;
    }
    const auto n_values = static_cast<size_t>(host.ggml_nelements(tensor));
    if (read_ || n_values / n != n_embd_) {
        forget();
        n_embd_ = n_values / n;
    }
    if (host.ggml_nbytes(tensor) != n_values * sizeof(float) || n > capacity_) {
        return forget();
    }
    const size_t n_kept = std::min(n_rows_ + n, capacity_);
    if (rows_.size() < n_kept * n_embd_) {
        rows_.resize(n_kept * n_embd_);
    }
    const size_t begin = n_rows_ % capacity_, n_before_wrap = std::min(n, capacity_ - begin),
                 row = n_embd_ * sizeof(float);
    host.ggml_backend_tensor_get(tensor, &rows_[begin * n_embd_], 0, n_before_wrap * row);
    if (n > n_before_wrap) {
        host.ggml_backend_tensor_get(tensor, rows_.data(), n_before_wrap * row, (n - n_before_wrap) * row);
    }
    n_rows_ += n;
}

void tap::set_capacity(size_t n_rows) {
    forget();
    capacity_ = n_rows;
    rows_     = {};
}

void tap::forget() {
    n_rows_ = 0;
    read_   = false;
}

const float * tap::newest(size_t back) {
    read_ = true; // what is captured after this belongs to another evaluation
    return back < std::min(n_rows_, capacity_) ? &rows_[(n_rows_ - 1 - back) % capacity_ * n_embd_] : nullptr;
}

const float * tap::row_of(llama_context * context, const float * logits, size_t n_vocab) {
    // one evaluation's rows of logits lie one after the other; each pointer is the number of a row
    const float * last = host.llama_get_logits_ith(context, -1);
    const float * base = host.llama_get_logits(context);
    if (last == nullptr || logits < base || logits > last) {
        return nullptr;
    }
    // All outputs must have been captured: fewer rows would be those of an earlier evaluation.
    const auto n_outputs = static_cast<size_t>(last - base) / n_vocab + 1;
    return newest(n_outputs - 1) == nullptr ? nullptr : newest(static_cast<size_t>(last - logits) / n_vocab);
}

} // namespace lcg
