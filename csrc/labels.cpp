// Family labels (paper, section 3.2): the families of the tokens that the model itself finds likely.
#include "adjusted_row.h"
#include "rows.h"

#include <algorithm>

namespace lcg {
namespace {

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
    for (int precision = adjusted_row::rough;;) {
        const auto   sum    = row.sum(static_cast<adjusted_row::precision>(precision));
        const size_t fewest = count_kept(row.best(), sum.low, options.top_p);
        const size_t most   = count_kept(row.best(), sum.high, options.top_p);
        if (most == n && n < n_most) { // S may go on
            n = std::min(4 * n, n_most);
            row.take_best(n);
        } else if (fewest == most || (!options.soft && present(fewest) == present(most))) {
            return most;
        } else {
            precision++; // where it is exact, both are equal
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

} // namespace

void family_labels(const logit_rows & rows, const float * norms, const uint8_t * families,
    const label_options & options, size_t n_threads, float * labels) {
    const auto   known = [&](uint8_t family) { return family < options.n_families; };
    const size_t token = static_cast<size_t>(std::find_if_not(families, families + rows.n_vocab, known) - families);
    if (token < rows.n_vocab) {
        throw gate_error("`families` is " + std::to_string(families[token]) + " at token " + std::to_string(token) +
                         ", expected 0 to " + std::to_string(options.n_families - 1));
    }
    const adjustment how(norms, options.softcap, rows.n_vocab);
    for_each_row(rows.n, n_threads, [&] {
        const auto memory = std::make_shared<adjusted_row>(how);
        return [&, memory](size_t i) {
            adjusted_row & row = *memory;
            row.load(rows.data + i * rows.n_vocab, i);
            const size_t n_kept = choose(row, rows.n_vocab, families, options);
            write_label(row, n_kept, families, options, labels + i * options.n_families);
        };
    });
}

} // namespace lcg
