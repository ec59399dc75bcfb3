// The decoding rules as pure functions. Notation of the paper: C candidates, S survivors of the user's truncation,
// H what the model itself is confident about, P families the gate predicts, A allowed, B banned.
#include "core.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

// GCC on Linux compiles passes over all logits for newer processors as well, and the loader picks one of them (before
// the thread sanitizer is ready). They are identical but for roundings, of which nothing here hangs.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__) &&                           \
    !defined(__SANITIZE_THREAD__)
#define LCG_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define LCG_CLONES
#endif

namespace lcg {
namespace {

bool counts(const token_data & token) {
    return token.logit != -INFINITY;
} // a grammar forbids with -inf

bool more_probable(const token_data & a, const token_data & b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

// True if a value of the block is above the limit or NaN; written for the compiler to vectorize.
template <size_t n> bool any_not_below(const float * values, float limit) {
    int hit = 0;
    for (size_t i = 0; i < n; i++) {
        hit |= !(values[i] <= limit);
    }
    return hit != 0;
}

// 2^y for y <= 0 to a relative error of 1e-6, as plain arithmetic: a library's expf takes 152k logits one by one
// (0.5 ms or more), this is vectorized on every platform (0.1 ms). -inf gives 2^-125.
inline float exp2_below_zero(float y) {
    const float shift    = 12582912.0f; // 1.5 * 2^23: adding it rounds to an integer
    const float limited  = y < -125.0f ? -125.0f : y;
    const float shifted  = limited + shift;
    const float r        = (limited - (shifted - shift)) * 0.693147181f; // -0.35 to 0.35
    const float fraction = 1 + r * (1 + r * (1 / 2.f + r * (1 / 6.f + r * (1 / 24.f + r * (1 / 120.f + r / 720.f)))));
    int32_t     exponent, bits;
    std::memcpy(&exponent, &shifted, 4);
    std::memcpy(&bits, &fraction, 4);
    bits = static_cast<int32_t>(static_cast<uint32_t>(bits) + (static_cast<uint32_t>(exponent) << 23));
    float result;
    std::memcpy(&result, &bits, 4);
    return result;
}

// e^x for x <= 0, likewise, to a relative error of 1e-13 or, near 0, of 1e-15. -inf gives e^-708.
inline double exp_below_zero(double x) {
    constexpr double factorials[] = {
        1, 1, 2, 6, 24, 120, 720, 5040, 40320, 362880, 3628800, 39916800, 479001600, 6227020800};
    const double shift    = 6755399441055744.0; // 1.5 * 2^52
    const double limited  = x < -708.0 ? -708.0 : x;
    const double shifted  = limited * 1.4426950408889634 + shift;
    const double r        = limited - (shifted - shift) * 0.6931471805599453;
    double       fraction = 0;
    for (int k = 13; k >= 0; k--) {
        fraction = fraction * r + 1 / factorials[k];
    }
    uint64_t exponent, bits;
    std::memcpy(&exponent, &shifted, 8);
    std::memcpy(&bits, &fraction, 8);
    bits += exponent << 52;
    double result;
    std::memcpy(&result, &bits, 8);
    return result;
}

constexpr size_t n_summed = 512; // values that are added up at once

// A power of two of them; by pairs: few roundings for each.
template <typename number, size_t n> inline number sum_by_pairs(number (&values)[n]) {
    for (size_t half = n / 2; half > 0; half /= 2) {
        for (size_t i = 0; i < half; i++) {
            values[i] += values[i + half];
        }
    }
    return values[0];
}

} // namespace

bool select_top(const float * logits, size_t n, size_t m, std::vector<uint32_t> & best) {
    constexpr size_t block = 64;
    const auto above = [logits](
                           uint32_t a, uint32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
    m                = std::min(m, n);
    best.clear();
    if (m == 0) {
        return true;
    }
    for (size_t i = 0; i < m; i++) {
        if (!(logits[i] < INFINITY)) {
            return false;
        }
        best.push_back(static_cast<uint32_t>(i));
    }
    std::make_heap(best.begin(), best.end(), above); // the least of the best in front
    float limit = logits[best.front()];
    for (size_t begin = m; begin < n;) {
        const size_t end = std::min(begin + block, n);
        if (end - begin == block && !any_not_below<block>(logits + begin, limit)) {
            begin = end;
            continue;
        }
        for (; begin < end; begin++) {
            if (logits[begin] <= limit) { // equal ones lose to a lower index
                continue;
            }
            if (!(logits[begin] < INFINITY)) {
                return false;
            }
            std::pop_heap(best.begin(), best.end(), above);
            best.back() = static_cast<uint32_t>(begin);
            std::push_heap(best.begin(), best.end(), above);
            limit = logits[best.front()];
        }
    }
    std::sort_heap(best.begin(), best.end(), above);
    return true;
}

bool may_act(const gate_rules & rules, int last) {
    return last != no_family || rules.first_token || !rules.persistence;
}

family_set allowed_families(const gate_rules & rules, family_set by_gate, int last) {
    if (rules.persistence && last != no_family) {
        by_gate.set(static_cast<size_t>(last));
    }
    return by_gate;
}

family_set families_of(const token_data * tokens, size_t n, const uint8_t * token_family) {
    family_set families;
    for (size_t i = 0; i < n; i++) {
        if (counts(tokens[i])) {
            families.set(token_family[tokens[i].id]);
        }
    }
    return families;
}

confident_families families_in_h(const gate & gate, const token_data * tokens, size_t n) {
    return {families_of(tokens, n, gate.token_family.data()), families_of(tokens, n, gate.masked_as.data())};
}

prediction predict_families(const float * z, const family_thresholds & thresholds, int last) {
    const std::vector<float> & needed = thresholds.after(last);
    prediction                 found;
    size_t                     best = 0;
    for (size_t f = 0; f < needed.size(); f++) {
        const double probability = 1.0 / (1.0 + std::exp(-static_cast<double>(z[f])));
        found.predicted.set(f, probability >= static_cast<double>(needed[f]));
        found.allowed.set(f, !thresholds.allow.empty() && probability >= static_cast<double>(thresholds.allow[f]));
        if (z[f] > z[best]) {
            best = f;
        }
    }
    found.predicted.set(best);
    found.allowed |= found.predicted;
    return found;
}

// The loops of these two are alike and stay apart: GCC would not compile a function that they call for every processor.
LCG_CLONES double softmax_sum(const float * logits, size_t n, float max_logit, float temperature) {
    const float scale = 1.44269504f / temperature; // to powers of two
    float       values[n_summed];                  // floats are added up over a block only, blocks in double
    double      sum = 0.0;
    for (size_t begin = 0; begin < n; begin += n_summed) {
        const size_t size = std::min(n_summed, n - begin);
        for (size_t i = 0; i < size; i++) {
            values[i] = exp2_below_zero((logits[begin + i] - max_logit) * scale);
        }
        std::fill(values + size, values + n_summed, 0.0f);
        sum += static_cast<double>(sum_by_pairs(values));
    }
    return sum;
}

LCG_CLONES double softmax_sum(const double * logits, size_t n, double max_logit) {
    double values[n_summed];
    double sum = 0.0;
    for (size_t begin = 0; begin < n; begin += n_summed) {
        const size_t size = std::min(n_summed, n - begin);
        for (size_t i = 0; i < size; i++) {
            values[i] = exp_below_zero(logits[begin + i] - max_logit);
        }
        std::fill(values + size, values + n_summed, 0.0);
        sum += sum_by_pairs(values);
    }
    return sum;
}

size_t confident_count(
    const token_data * best, size_t n_best, const std::vector<confidence_set> & sets, float temperature, double sum) {
    size_t longest = 0; // every set is a prefix of the sorted tokens, so the union is the longest of them
    for (const confidence_set & set : sets) {
        const size_t limit  = std::min<size_t>(set.top_k, n_best);
        double       before = 0.0;
        size_t       n      = 0;
        while (n < limit && counts(best[n]) && (n == 0 || before < set.top_p)) {
            before += std::exp((best[n].logit - best[0].logit) / temperature) / sum;
            n++;
        }
        longest = std::max(longest, n);
    }
    return longest;
}

size_t survivor_count(const token_data * best, size_t n_best, size_t top_k, float top_p) {
    const size_t limit = std::min(top_k, n_best);
    size_t       n     = 0;
    double       sum   = 0.0;
    for (; n < limit && counts(best[n]); n++) {
        sum += std::exp(best[n].logit - best[0].logit);
    }
    return top_p < 1 ? confident_count(best, n, {{static_cast<uint32_t>(n), top_p}}, 1.0f, sum) : n;
}

ruling rule(const gate_rules & rules, float strength, const family_set & maskable, const prediction & by_gate, int last,
    const family_set & survivors, const std::function<confident_families()> & confident) {
    ruling result;
    result.predicted = by_gate.predicted;
    result.allowed   = allowed_families(rules, by_gate.allowed, last);
    result.banned    = maskable & ~result.allowed;
    if (!may_act(rules, last)) {
        result.outcome = verdict::no_history;
    } else if ((survivors & result.banned).none()) {
        result.outcome = verdict::nothing_banned;
    } else {
        const confident_families h = confident();
        if (rules.confidence && (h.own & by_gate.predicted).none()) {
            result.outcome = verdict::not_confident;
        } else if (strength == INFINITY && ((survivors | h.masked_as) & ~result.banned).none()) {
            result.outcome = verdict::would_empty;
        } else {
            result.outcome = verdict::intervene;
        }
    }
    return result;
}

void apply_ban(const token_data_array & survivors, const token_data * confident, size_t n_confident,
    const family_set & banned, const uint8_t * masked_as, float strength, std::vector<token_data> & out) {
    out.clear();
    const auto keep = [&](token_data token) {
        if (!counts(token)) {
            return;
        }
        if (banned[masked_as[token.id]]) {
            if (strength == INFINITY) {
                return;
            }
            token.logit = std::max(token.logit - strength, std::numeric_limits<float>::lowest());
        }
        out.push_back(token);
    };
    for (size_t i = 0; i < survivors.size; i++) {
        keep(survivors.data[i]);
    }
    for (size_t i = 0; i < n_confident; i++) {
        const token_data & token = confident[i];
        const bool         in_s  = std::any_of(survivors.data, survivors.data + survivors.size,
            [&](const token_data & survivor) { return survivor.id == token.id; });
        if (!in_s) {
            keep(token);
        }
    }
    std::sort(out.begin(), out.end(), more_probable);
}

decision decide(const gate & gate, const gate_rules & rules, float strength, const std::vector<token_data> & candidates,
    const std::vector<token_data> & survivors, const float * z, int last, float temperature) {
    const uint8_t *         masked_as = gate.masked_as.data();
    std::vector<token_data> best      = candidates;
    size_t                  n         = 0; // of the best are in H
    const auto              confident = [&] {
        std::sort(best.begin(), best.end(), more_probable);
        std::vector<float> logits;
        for (const token_data & token : best) {
            logits.push_back(token.logit);
        }
        const float  at  = std::max(temperature, rules.confidence_temperature);
        const double sum = softmax_sum(logits.data(), logits.size(), logits[0], at);
        n                = confident_count(best.data(), best.size(), gate.config.confidence, at, sum);
        return families_in_h(gate, best.data(), n);
    };
    const prediction by_gate = predict_families(z, rules.thresholds, last);
    const family_set present = families_of(survivors.data(), survivors.size(), masked_as);
    decision         result;
    static_cast<ruling &>(result) = rule(rules, strength, gate.maskable, by_gate, last, present, confident);
    result.candidates             = survivors;
    std::sort(result.candidates.begin(), result.candidates.end(), more_probable);
    if (result.outcome == verdict::intervene) {
        const token_data_array  s = {result.candidates.data(), result.candidates.size(), -1, true};
        std::vector<token_data> left;
        apply_ban(s, best.data(), n, result.banned, masked_as, strength, left);
        result.candidates = std::move(left);
    }
    return result;
}

} // namespace lcg
