// Rows of logits, and the training labels that they give (labels.cpp).
#pragma once

#include "core.h"

namespace lcg {

struct logit_rows {
    const float * data; // [n, n_vocab]
    size_t        n, n_vocab;
};

struct label_options {
    size_t n_families;
    size_t top_k; // 0: no limit
    double top_p;
    bool   soft;
    double softcap; // of the model's logits, 0: none
};

// The families that topkp(logits / norms) holds, or with `soft` their shares of it: labels [n, n_families]. norms
// [n_vocab] may be null. n_threads 0 is all cores. Throws gate_error for values that cannot be, naming where they are.
void family_labels(const logit_rows & rows, const float * norms, const uint8_t * families,
    const label_options & options, size_t n_threads, float * labels);

// How a training-free gate finds P.
struct label_rule {
    std::vector<uint8_t> token_family; // [n_vocab], exemptions not applied, as in training
    std::vector<float>   norms;        // [n_vocab], empty: logits are not divided
    label_options        options;
    family_set           siblings; // where the label holds one of them, it holds all

    // logits [n_vocab], as the model gave them -> z [n_families]: far above 0 where the label holds the family, as far
    // below where it does not.
    void predict(const float * logits, float * z) const;
};

// The gate with a label rule in the place of its weights. Throws gate_error where family_labels would.
std::shared_ptr<const gate> without_training(const gate & gate, label_rule rule);

} // namespace lcg
