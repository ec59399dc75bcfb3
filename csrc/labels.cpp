// Family labels (paper, section 3.2): the families of the tokens that the model itself finds likely.
#include "rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

namespace lcg {
namespace {

// c * atanh(logit / c), the logit before the model's soft cap c, in double precision. With q = (1 + u) / (1 - u) split
// into 2^e times a number near 1, atanh(u) = log(q) / 2 is e * log(2) / 2 and a short series.
inline double before_softcap(float logit, double softcap) {
    constexpr double limit = 1 - 1.0 / (1 << 24); // a logit that was rounded to the cap: as one float below it
    const double     ratio = static_cast<double>(logit) / softcap;
    const double     below = ratio > limit ? limit : ratio;
    const double     u     = below < -limit ? -limit : below;
    const float      q     = static_cast<float>((1 + u) / (1 - u) * 1.41421356); // so that floor rounds log2(q)
    int32_t          bits;
    std::memcpy(&bits, &q, 4);
    const int32_t power_bits = bits & 0x7f800000;
    float         power;
    std::memcpy(&power, &power_bits, 4);
    const double s      = ((1 + u) - power * (1 - u)) / ((1 + u) + power * (1 - u)); // at most 0.172
    const double s2     = s * s;
    double       series = 1.0 / 21;
    for (int n = 19; n > 0; n -= 2) {
        series = series * s2 + 1.0 / n;
    }
    const double raw = softcap * (s * series + ((bits >> 23) - 127) * 0.34657359027997264); // log(2) / 2
    return std::fabs(logit) < INFINITY ? raw : logit; // -inf stays forbidden; NaN and +inf are found later
}

// A row of logits with the soft cap undone, each divided by the norm of its token's output row. All of it is computed
// in single precision, and in double precision where that leaves something open. The memory is kept from row to row.
class adjusted_row {
  public:
    struct token {
        uint32_t id;
        double   logit;  // adjusted
        double   weight; // exp(logit - the most probable token's)
    };
    struct bounds {
        double low, high;
    };

    // softcap 0: the model has none.
    adjusted_row(double softcap, size_t n_vocab) : softcap_(softcap), n_vocab_(n_vocab) {}

    // logits [n_vocab]; `number` is the row's in messages. To be divided next.
    void load(const float * logits, size_t number) {
        logits_ = logits;
        number_ = number;
        if (softcap_ > 0) {
            raw_.resize(n_vocab_);
            for (size_t i = 0; i < n_vocab_; i++) {
                raw_[i] = before_softcap(logits[i], softcap_);
            }
        }
    }

    // norms [n_vocab]; null divides by nothing.
    void divide(const float * norms) {
        norms_ = norms;
        single_.resize(n_vocab_);
        row_ = single_.data();
        if (softcap_ > 0) {
            std::transform(
                raw_.begin(), raw_.end(), single_.begin(), [](double raw) { return static_cast<float>(raw); });
        } else if (norms == nullptr) {
            row_ = logits_;
        }
        if (norms != nullptr) {
            const float * raw = softcap_ > 0 ? single_.data() : logits_;
            for (size_t i = 0; i < n_vocab_; i++) {
                single_[i] = raw[i] / norms[i];
            }
        }
    }

    // Finds the n most probable tokens, or all that count where they are fewer. Throws as check_row does.
    void take_best(size_t n) {
        select(n);
        best_.clear();
        for (const uint32_t i : order_) {
            const double logit = adjusted(i);
            if (logit > -INFINITY) {
                best_.push_back({i, logit, 0});
            }
        }
        std::sort(best_.begin(), best_.end(),
            [](const token & a, const token & b) { return a.logit != b.logit ? a.logit > b.logit : a.id < b.id; });
        best_.resize(std::min(best_.size(), n));
        for (token & likely : best_) {
            likely.weight = std::exp(likely.logit - best_[0].logit);
        }
    }

    const std::vector<token> & best() const { return best_; } // most probable first

    // The sum of the weights of the whole vocabulary is between these two.
    bounds sum(bool exact) {
        const double best = best_[0].logit;
        const double off  = 1e-5 + std::ldexp(std::fabs(best) + 100, -21); // of the sum and of the logits
        if (!exact && in_range_ && off < 0.5) {
            const auto   first = static_cast<float>(best);
            const double sum   = softmax_sum(row_, n_vocab_, first, 1.0f) * std::exp(static_cast<double>(first) - best);
            return {sum * (1 - off), sum * (1 + off)};
        }
        wide_.resize(n_vocab_);
        for (size_t i = 0; i < n_vocab_; i++) {
            wide_[i] = adjusted(i);
        }
        const double sum = softmax_sum(wide_.data(), n_vocab_, best);
        return {sum, sum};
    }

  private:
    double adjusted(size_t i) const {
        const double raw = softcap_ > 0 ? raw_[i] : static_cast<double>(logits_[i]);
        return norms_ != nullptr ? raw / static_cast<double>(norms_[i]) : raw;
    }

    // Tokens among which the n most probable are: a few more than n, so that no rounding leaves one out.
    void select(size_t n) {
        for (size_t wanted = n + 12;; wanted *= 4) {
            in_range_ = select_top(row_, n_vocab_, wanted, order_) && row_[order_[0]] > -INFINITY;
            if (!in_range_) { // by the logits, or only their quotients
                check_row(logits_, n_vocab_, number_);
                order_.resize(n_vocab_);
                std::iota(order_.begin(), order_.end(), 0);
                return;
            }
            const float nth = row_[order_[std::min(n, order_.size()) - 1]];
            if (order_.size() == n_vocab_ || row_[order_.back()] < nth - std::ldexp(std::fabs(nth), -21) - 1e-40f) {
                return;
            }
        }
    }

    double                softcap_;
    size_t                n_vocab_;
    const float *         logits_   = nullptr; // [n_vocab]
    const float *         norms_    = nullptr; // [n_vocab]
    const float *         row_      = nullptr; // [n_vocab], `single_` or the logits
    size_t                number_   = 0;
    bool                  in_range_ = false; // of single precision
    std::vector<double>   raw_;              // [n_vocab], the soft cap undone
    std::vector<float>    single_;           // [n_vocab], adjusted in single precision
    std::vector<double>   wide_;             // [n_vocab], ... in double precision
    std::vector<uint32_t> order_;
    std::vector<token>    best_;
};

// How many of the best tokens have less than top_p above them, given the sum of all weights.
size_t count_kept(const std::vector<adjusted_row::token> & best, double sum, double top_p) {
    double before = 0;
    size_t n      = 0;
    while (n < best.size() && (n == 0 || before / sum < top_p)) {
        before += best[n].weight; // the sums of equal tokens are exact so
        n++;
    }
    return n;
}

// The size of S, a prefix of row.best(). For a hard label it may be that of another prefix with the same families.
size_t choose(adjusted_row & row, size_t n_vocab, const uint8_t * families, const label_options & options) {
    const size_t n_most = options.top_k > 0 ? std::min(options.top_k, n_vocab) : n_vocab;
    if (options.top_p >= 1) { // what is above a token sums to less than 1, even where that is rounded to 1
        row.take_best(n_most);
        return row.best().size();
    }
    const auto present = [&](size_t n) {
        family_set set;
        for (size_t i = 0; i < n; i++) {
            set.set(families[row.best()[i].id]);
        }
        return set;
    };
    size_t n = std::min<size_t>(n_most, 64);
    row.take_best(n);
    if (!options.soft && n == n_most && present(1) == present(row.best().size())) {
        return 1; // whatever the sum is
    }
    for (bool exact = false;;) {
        const auto   sum    = row.sum(exact);
        const size_t fewest = count_kept(row.best(), sum.low, options.top_p);
        const size_t most   = count_kept(row.best(), sum.high, options.top_p);
        if (most == n && n < n_most) { // S may go on
            n = std::min(4 * n, n_most);
            row.take_best(n);
        } else if (fewest == most || (!options.soft && present(fewest) == present(most))) {
            return most;
        } else {
            exact = true; // then both are equal
        }
    }
}

void write_label(
    const adjusted_row & row, size_t n_kept, const uint8_t * families, const label_options & options, float * label) {
    double share[max_families] = {}, total = 0;
    for (size_t i = 0; i < n_kept; i++) {
        const double part = options.soft ? row.best()[i].weight : 1;
        share[families[row.best()[i].id]] += part;
        total += part;
    }
    for (size_t f = 0; f < options.n_families; f++) {
        label[f] = static_cast<float>(options.soft ? share[f] / total : std::min(share[f], 1.0));
    }
}

// The ids of the best tokens; where too few count, those at -inf follow.
void write_ids(const std::vector<adjusted_row::token> & best, const float * logits, size_t n, int32_t * ids) {
    for (const adjusted_row::token & token : best) {
        *ids++ = static_cast<int32_t>(token.id);
    }
    for (size_t i = 0, left = n - best.size(); left > 0; i++) {
        if (logits[i] == -INFINITY) {
            *ids++ = static_cast<int32_t>(i);
            left--;
        }
    }
}

void check_families(const uint8_t * families, size_t n_vocab, size_t n_families) {
    const auto   known = [&](uint8_t family) { return family < n_families; };
    const size_t token = static_cast<size_t>(std::find_if_not(families, families + n_vocab, known) - families);
    if (token < n_vocab) {
        throw gate_error("`families` is " + std::to_string(families[token]) + " at token " + std::to_string(token) +
                         ", expected 0 to " + std::to_string(n_families - 1));
    }
}

void check_norms(const float * norms, size_t n_vocab) {
    const auto   good = [](float norm) { return norm > 0 && norm < INFINITY; };
    const size_t i    = static_cast<size_t>(std::find_if_not(norms, norms + n_vocab, good) - norms);
    if (i < n_vocab) {
        throw gate_error("`norms` is " + std::to_string(norms[i]) + " at token " + std::to_string(i) +
                         ", expected a finite number above 0");
    }
}

} // namespace

void family_labels(const logit_rows & rows, const float * norms, const uint8_t * families,
    const label_options & options, size_t n_threads, float * labels) {
    check_families(families, rows.n_vocab, options.n_families);
    if (norms != nullptr) {
        check_norms(norms, rows.n_vocab);
    }
    for_each_row(rows.n, n_threads, [&] {
        const auto memory = std::make_shared<adjusted_row>(options.softcap, rows.n_vocab);
        return [&, memory](size_t i) {
            adjusted_row & row = *memory;
            row.load(rows.data + i * rows.n_vocab, i);
            row.divide(norms);
            const size_t n_kept = choose(row, rows.n_vocab, families, options);
            write_label(row, n_kept, families, options, labels + i * options.n_families);
        };
    });
}

void read_likely(const logit_rows & rows, const std::vector<const float *> & norms, double softcap, size_t n_threads,
    const likely_results & results) {
    for (const float * divisors : norms) {
        if (divisors != nullptr) {
            check_norms(divisors, rows.n_vocab);
        }
    }
    for_each_row(rows.n, n_threads, [&] {
        const auto memory = std::make_shared<adjusted_row>(softcap, rows.n_vocab);
        return [&, memory](size_t i) {
            adjusted_row & row    = *memory;
            const float *  logits = rows.data + i * rows.n_vocab;
            row.load(logits, i);
            for (size_t k = 0; k < norms.size(); k++) {
                row.divide(norms[k]);
                row.take_best(k == results.order ? results.n_best : 1);
                results.log_sums[i * norms.size() + k] = row.best()[0].logit + std::log(row.sum(true).low);
                if (k == results.order) {
                    write_ids(row.best(), logits, results.n_best, results.ids + i * results.n_best);
                }
            }
        };
    });
}

void label_rule::predict(const float * logits, float * z) const {
    constexpr float certain  = 16; // 1 - 1e-7
    const float *   divisors = norms.empty() ? nullptr : norms.data();
    family_labels({logits, 1, token_family.size()}, divisors, token_family.data(), options, 1, z);
    bool has_sibling = false;
    for (size_t f = 0; f < options.n_families; f++) {
        has_sibling = has_sibling || (siblings[f] && z[f] > 0);
    }
    for (size_t f = 0; f < options.n_families; f++) {
        z[f] = z[f] > 0 || (siblings[f] && has_sibling) ? certain : -certain;
    }
}

std::shared_ptr<const gate> without_training(const gate & source, label_rule rule) {
    check_families(rule.token_family.data(), rule.token_family.size(), rule.options.n_families);
    if (!rule.norms.empty()) {
        check_norms(rule.norms.data(), rule.norms.size());
    }
    auto result     = std::make_shared<gate>(source);
    result->weights = nullptr;
    result->device.clear();
    result->labels = std::make_shared<label_rule>(std::move(rule));
    return result;
}

} // namespace lcg
