// The tap: copies hidden states out of llama.cpp's graphs while they are computed, and finds the one of a given row of
// logits. llama.cpp names the state after the final norm `result_norm` and the logits `result_output`; they have the
// same rows.
#include "tap.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

namespace lcg {

namespace {

// A context that gives embeddings of tokens calls the same tensor by another name, which is in other contexts that of
// what a pooling or a head for ranking makes of it.
constexpr char other_name[] = "result_embd_pooled";

bool is_hidden_state(const char * name) {
    return std::strcmp(name, "result_norm") == 0 || std::strcmp(name, other_name) == 0;
}

} // namespace

bool tap::on_tensor(ggml_tensor * tensor, bool ask, void * user_data) {
    auto &       self      = *static_cast<tap *>(user_data);
    const char * name      = host.ggml_get_name(tensor);
    const bool   is_logits = self.has_keys_ && std::strcmp(name, "result_output") == 0;
    if (!is_logits && !is_hidden_state(name)) {
        return !ask;
    }
    if (!self.active) {
        self.forget(); // what is kept belongs to an earlier evaluation
        return !ask;
    }
    if (!ask) {
        try {
            is_logits ? self.capture_keys(tensor) : self.capture(tensor, std::strcmp(name, other_name) == 0);
        } catch (const std::bad_alloc &) { // must not cross llama.cpp
            self.forget();
        }
    }
    return true;
}

void tap::capture(ggml_tensor * tensor, bool may_be_pooled) {
    const auto n        = static_cast<size_t>(host.ggml_nrows(tensor));
    const auto n_values = static_cast<size_t>(host.ggml_nelements(tensor));
    if (may_be_pooled && n_embd_ != 0 && n != 0 && n_values / n != n_embd_) {
        return;
    }
    n_newest_ = 0;
    if (n == 0) {
        return;
    }
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
    if (has_keys_) {
        n_newest_ = n;
        keys_.resize(rows_.size() / n_embd_ * n_key);
        for (size_t i = 0; i < n; i++) {
            std::fill_n(key_of(n_rows_ - 1 - i), n_key, NAN);
        }
    }
}

void tap::capture_keys(ggml_tensor * logits) {
    const auto n = static_cast<size_t>(host.ggml_nrows(logits));
    if (n != n_newest_ || n == 0) { // these are not the logits of the rows that were captured
        return;
    }
    const size_t n_vocab = static_cast<size_t>(host.ggml_nelements(logits)) / n, size = std::min(n_key, n_vocab);
    const size_t begin = (n_vocab - size) / 2;
    for (size_t i = 0; i < n; i++) {
        host.ggml_backend_tensor_get(
            logits, key_of(n_rows_ - n + i), (i * n_vocab + begin) * sizeof(float), size * sizeof(float));
    }
    n_newest_ = 0;
}

void tap::set_capacity(size_t n_rows) {
    forget();
    capacity_ = n_rows;
    rows_     = {};
    keys_     = {};
}

void tap::forget() {
    n_rows_   = 0;
    n_newest_ = 0;
    read_     = false;
}

const float * tap::newest(size_t back) {
    read_ = true; // what is captured after this belongs to another evaluation
    return back < std::min(n_rows_, capacity_) ? &rows_[(n_rows_ - 1 - back) % capacity_ * n_embd_] : nullptr;
}

const float * tap::row_like(const float * logits, size_t n_vocab) const {
    const size_t  size = std::min(n_key, n_vocab);
    const float * key  = logits + (n_vocab - size) / 2;
    for (size_t back = 0; back < std::min(n_rows_, capacity_); back++) {
        const size_t  i    = (n_rows_ - 1 - back) % capacity_;
        const float * kept = &keys_[i * n_key];
        size_t        n    = 0; // the program may have changed a few
        for (size_t k = 0; k < size; k++) {
            n += kept[k] == key[k];
        }
        if (2 * n > size) {
            return &rows_[i * n_embd_];
        }
    }
    return nullptr;
}

const float * tap::row_of(llama_context * context, const float * logits, size_t n_vocab) {
    if (has_keys_) {
        return row_like(logits, n_vocab);
    }
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

bool is_row(const token_data_array & tokens, const float * row, size_t n_vocab) {
    constexpr size_t n_compared = 64;
    const size_t     step       = std::max<size_t>(tokens.size / n_compared, 1);
    for (size_t i = 0; i < tokens.size; i += step) {
        const token_data & token = tokens.data[i];
        if (token.id < 0 || static_cast<size_t>(token.id) >= n_vocab) {
            return false;
        }
        if (token.logit != row[token.id] && token.logit != -INFINITY) {
            return false;
        }
    }
    return true;
}

const float * find_row(llama_context * context, const token_data_array & tokens, size_t n_vocab) {
    const float * last = host.llama_get_logits_ith(context, -1);
    const float * base = host.llama_get_logits(context);
    if (base == nullptr || last == nullptr || last < base) {
        return nullptr;
    }
    // where only one row is there, it is this one, also if the program changed some logits
    for (const float * row = base; row <= last; row += n_vocab) {
        if (base == last || is_row(tokens, row, n_vocab)) {
            return row;
        }
    }
    return nullptr;
}

} // namespace lcg
