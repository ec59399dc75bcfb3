// Work on rows of logits.
#pragma once

#include "labels.h"

namespace lcg {

using row_work = std::function<void(size_t row)>;

// Rows are handed out one by one to up to n_threads threads (0: all cores), this one included; each makes its own work,
// with its own memory. Throws the error of the first row that has one.
void for_each_row(size_t n_rows, size_t n_threads, const std::function<row_work()> & make_work);

// Throws, naming row and token, if a logit is NaN or +inf, or if all are -inf.
void check_row(const float * logits, size_t n_vocab, size_t row);

// What S and H are taken with.
struct step_options {
    size_t                      top_k; // at least 1
    float                       top_p;
    float                       temperature;  // of the request
    float                       confident_at; // the temperature of H
    std::vector<confidence_set> confidence;
};

struct step_results {
    size_t    n_best;      // tokens kept of each row
    int32_t * ids;         // [n, n_best], most probable first, equal ones by id
    float *   best;        // [n, n_best], their logits
    double *  log_sum;     // [n], log of the sum of all exp(logit / temperature), to 1e-6
    int32_t * n_survivors; // [n], how many of the best are in S
    int32_t * n_confident; // [n], ... in H
};

// Threads and errors as in family_labels.
void read_steps(const logit_rows & rows, const step_options & options, size_t n_threads, const step_results & results);

struct likely_results {
    size_t    n_best;   // tokens kept of each row, at most n_vocab
    size_t    order;    // of which norms they are the best
    int32_t * ids;      // [n, n_best], most probable first, equal ones by id
    double *  log_sums; // [n, norms], log of the sum of all exp(logit / norm)
};

// What labels are made of by each of several norms [n_vocab] (null: logits are not divided), the soft cap undone.
// Threads and errors as in family_labels.
void read_likely(const logit_rows & rows, const std::vector<const float *> & norms, double softcap, size_t n_threads,
    const likely_results & results);

} // namespace lcg
