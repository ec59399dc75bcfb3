// The distribution that labels are made from: a row of logits, each divided by the norm of its token's output row.
#pragma once

#include "lcg.h"

namespace lcg {

// What is done to every row.
struct adjustment {
    // norms [n_vocab], or null: logits are not divided; softcap 0: the model has none. Throws for a norm that is not
    // above 0.
    adjustment(const float * norms, double softcap, size_t n_vocab);

    double of(const float * logits, size_t i) const; // logits [n_vocab], the one of token i adjusted

    const float *      norms;
    double             softcap;
    size_t             n_vocab;
    std::vector<float> scale; // log2(e) / norm, with ones up to a whole number of chunks
};

// Reads one row after another; the memory is kept.
//
// A row is read once, for bounds: the largest value of every group of tokens, and a sum of the exponentials that is at
// most 6.2 % too large. Only tokens that may be among the best are then adjusted in double precision.
class adjusted_row {
  public:
    struct token {
        uint32_t id;
        double   logit;  // adjusted
        double   weight; // exp(logit - the most probable token's)
    };

    explicit adjusted_row(const adjustment & adjustment);

    // logits [n_vocab], finite or -inf (check_row); `row` is its number in messages.
    void load(const float * logits, size_t row);

    // Finds the n most probable tokens, or all that count where they are fewer.
    void take_best(size_t n);

    const std::vector<token> & best() const { return best_; } // most probable first

    // The sum of the weights of the whole vocabulary is between these two. `rough` is known from the first pass and
    // the closer the more is in best(), `single` takes another pass, `exact` one in double precision.
    enum precision { rough, single, exact };
    struct bounds {
        double low, high;
    };
    bounds sum(precision wanted);

  private:
    void   scan();
    double rounding(double span) const;
    float  limit_of_best(size_t n);
    bounds rough_sum() const;
    bounds single_sum();
    double exact_sum() const;

    const adjustment &    how_;
    const float *         logits_   = nullptr; // [n_vocab]
    const float *         uncapped_ = nullptr; // [n_vocab], the soft cap undone
    std::vector<float>    uncapped_memory_, adjusted_memory_;
    float                 offset_   = 0;     // of rough_exponent
    bool                  in_range_ = false; // otherwise maxima_ and powers_ say nothing
    std::vector<float>    maxima_;           // the largest rough exponent of each group
    double                powers_ = 0;       // the sum of all power_of_two
    std::vector<uint32_t> groups_;
    std::vector<token>    best_;
};

} // namespace lcg
