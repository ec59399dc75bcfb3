// Work on rows of logits.
#pragma once

#include "core.h"

namespace lcg {

using row_work = std::function<void(size_t row)>;

// Rows are handed out one by one to up to n_threads threads (0: all cores), this one included; each makes its own work,
// with its own memory. Throws the error of the first row that has one.
void for_each_row(size_t n_rows, size_t n_threads, const std::function<row_work()> & make_work);

// Throws, naming row and token, if a logit is NaN or +inf, or if all are -inf.
void check_row(const float * logits, size_t n_vocab, size_t row);

} // namespace lcg
