// Bounds first, exact values where they are needed.
#include "adjusted_row.h"

#include "rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>

// GCC on Linux compiles the pass over all logits for newer processors as well, and the loader picks one of them (before
// the thread sanitizer is ready). It is fast enough without, and identical but for roundings that its bounds cover.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__) &&                           \
    !defined(__SANITIZE_THREAD__)
#define LCG_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define LCG_CLONES
#endif

namespace lcg {
namespace {

// Tokens that are n_lanes apart in a chunk of the row make a group: every loop runs over all lanes at once, and
// compilers vectorize that without being told.
constexpr size_t n_lanes = 64, n_per_group = 32, chunk = n_lanes * n_per_group;

constexpr float  log2_e    = 1.44269504f;
constexpr float  zero      = 639.0f;     // exponents y are handled as y + zero, see power_of_two
constexpr float  least     = zero - 126; // below it a power is no normal float
constexpr float  too_large = zero + 100; // from it on a sum of powers could overflow
constexpr double excess    = 1.0615;     // (1 + f) / 2^f is at most this, for f from 0 to 1

// 2^y for the price of a shift, at most `excess` times too large. A float from 512 to 1024 is a fixed-point number, 14
// of its bits are the fraction. Shifted by 9, the bits of y + 512 + 127 are those of a float whose exponent is floor(y)
// and whose mantissa is 1 + f.
inline float power_of_two(float exponent) {
    const float limited = exponent < least ? least : exponent;
    uint32_t    bits;
    std::memcpy(&bits, &limited, 4);
    bits <<= 9;
    float power;
    std::memcpy(&power, &bits, 4);
    return power;
}

// logit / norm as an exponent of two, roughly. `scale` is log2(e) / norm.
inline float rough_exponent(float logit, float scale, float offset) {
    return logit * scale + offset;
}

// The largest exponent of every group goes to maxima [n_lanes]; `sum` grows by the powers of the chunk. False if an
// exponent is NaN or too large.
LCG_CLONES bool scan_chunk(const float * logits, const float * scale, float offset, float * maxima, double & sum) {
    float largest[n_lanes], partial[n_lanes];
    int   bad = 0;
    std::fill(largest, largest + n_lanes, -INFINITY);
    std::fill(partial, partial + n_lanes, 0.0f);
    for (size_t i = 0; i < chunk; i += n_lanes) {
        for (size_t lane = 0; lane < n_lanes; lane++) {
            const float exponent = rough_exponent(logits[i + lane], scale[i + lane], offset);
            largest[lane]        = largest[lane] < exponent ? exponent : largest[lane];
            partial[lane] += power_of_two(exponent);
            bad |= !(exponent < too_large);
        }
    }
    std::copy(largest, largest + n_lanes, maxima);
    for (size_t width = n_lanes / 2; width > 0; width /= 2) {
        for (size_t lane = 0; lane < width; lane++) {
            partial[lane] += partial[lane + width];
        }
    }
    sum += static_cast<double>(partial[0]);
    return bad == 0;
}

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

} // namespace

adjustment::adjustment(const float * norms, double softcap, size_t n_vocab)
    : norms(norms), softcap(softcap), n_vocab(n_vocab), scale((n_vocab + chunk - 1) / chunk * chunk, 1.0f) {
    if (norms == nullptr) {
        std::fill(scale.begin(), scale.end(), log2_e);
        return;
    }
    for (size_t i = 0; i < n_vocab; i++) {
        scale[i] = log2_e / norms[i];
    }
    const auto   good = [](float norm) { return norm > 0 && norm < INFINITY; };
    const size_t i    = static_cast<size_t>(std::find_if_not(norms, norms + n_vocab, good) - norms);
    if (i < n_vocab) {
        throw gate_error("`norms` is " + std::to_string(norms[i]) + " at token " + std::to_string(i) +
                         ", expected a finite number above 0");
    }
}

double adjustment::of(const float * logits, size_t i) const {
    const double raw = softcap > 0 ? before_softcap(logits[i], softcap) : logits[i];
    return norms != nullptr ? raw / norms[i] : raw;
}

adjusted_row::adjusted_row(const adjustment & adjustment)
    : how_(adjustment), maxima_(adjustment.scale.size() / n_per_group) {}

void adjusted_row::load(const float * logits, size_t row) {
    logits_ = uncapped_ = logits;
    if (how_.softcap > 0) {
        uncapped_memory_.resize(how_.n_vocab);
        for (size_t i = 0; i < how_.n_vocab; i++) {
            uncapped_memory_[i] = static_cast<float>(before_softcap(logits[i], how_.softcap));
        }
        uncapped_ = uncapped_memory_.data();
    }
    scan();
    if (!in_range_) { // a row in range has its reference
        check_row(logits, how_.n_vocab, row);
    }
}

void adjusted_row::scan() {
    const size_t n         = how_.n_vocab;
    float        reference = -INFINITY; // exponents are relative to it; the best of a sample is near enough
    for (size_t i = 0; i < n; i += n / n_lanes + 1) {
        reference = std::max(reference, static_cast<float>(how_.of(logits_, i)));
    }
    powers_   = 0;
    offset_   = zero - reference * log2_e;
    in_range_ = std::fabs(reference) < 1e5f;
    for (size_t begin = 0; begin < n && in_range_; begin += chunk) {
        const float * logits = uncapped_ + begin;
        float         last[chunk];
        if (n - begin < chunk) {
            std::fill(std::copy(logits, uncapped_ + n, last), last + chunk, -INFINITY);
            logits = last;
        }
        in_range_ = scan_chunk(logits, &how_.scale[begin], offset_, &maxima_[begin / n_per_group], powers_);
    }
}

// How far a rough exponent within `span` of zero may be off: by five roundings of the product and one of the sum.
double adjusted_row::rounding(double span) const {
    return std::ldexp(1.0, -14) + std::ldexp(span + std::fabs(static_cast<double>(offset_) - zero), -21);
}

// A rough exponent that all of the n best tokens reach.
float adjusted_row::limit_of_best(size_t n) {
    if (!in_range_ || n >= maxima_.size()) {
        return -INFINITY;
    }
    // n groups reach the n-th largest maximum, so n tokens do, and none of the n best can be below but for rounding
    select_top(maxima_.data(), maxima_.size(), n, groups_);
    const double nth = maxima_[groups_.back()];
    return static_cast<float>(nth - 3 * rounding(std::fabs(nth - zero) + too_large - zero));
}

void adjusted_row::take_best(size_t n) {
    const float limit = limit_of_best(n);
    best_.clear();
    for (size_t group = 0; group < maxima_.size(); group++) {
        if (in_range_ && maxima_[group] < limit) {
            continue;
        }
        const size_t begin = group / n_lanes * chunk + group % n_lanes, end = std::min(begin + chunk, how_.n_vocab);
        for (size_t i = begin; i < end; i += n_lanes) {
            const bool   near  = !in_range_ || rough_exponent(uncapped_[i], how_.scale[i], offset_) >= limit;
            const double logit = near ? how_.of(logits_, i) : -INFINITY;
            if (logit > -INFINITY) {
                best_.push_back({static_cast<uint32_t>(i), logit, 0});
            }
        }
    }
    const auto more_probable = [](const token & a, const token & b) {
        return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
    };
    if (best_.size() > n) {
        std::nth_element(best_.begin(), best_.begin() + static_cast<std::ptrdiff_t>(n), best_.end(), more_probable);
        best_.resize(n);
    }
    std::sort(best_.begin(), best_.end(), more_probable);
    for (token & likely : best_) {
        likely.weight = std::exp(likely.logit - best_[0].logit);
    }
}

adjusted_row::bounds adjusted_row::sum(precision wanted) {
    if (wanted == exact || !in_range_) {
        const double sum = exact_sum();
        return {sum, sum};
    }
    return wanted == single ? single_sum() : rough_sum();
}

adjusted_row::bounds adjusted_row::rough_sum() const {
    double best = 0, best_powers = 0;
    for (const token & likely : best_) {
        best += likely.weight;
        best_powers += power_of_two(rough_exponent(uncapped_[likely.id], how_.scale[likely.id], offset_));
    }
    const double others = powers_ - best_powers;
    const double margin = rounding(zero - least) * (powers_ + best_powers); // both were rounded, maybe differently
    const double weight = std::exp2(best_[0].logit * 1.4426950408889634 + offset_ - zero); // of the first, as a power
    return {best + std::max(others - margin, 0.0) / excess / weight, best + (others + margin) / weight};
}

adjusted_row::bounds adjusted_row::single_sum() {
    const float * row = uncapped_;
    if (how_.norms != nullptr) {
        adjusted_memory_.resize(how_.n_vocab);
        for (size_t i = 0; i < how_.n_vocab; i++) {
            adjusted_memory_[i] = uncapped_[i] / how_.norms[i];
        }
        row = adjusted_memory_.data();
    }
    const auto   first = static_cast<float>(best_[0].logit);
    const double sum   = softmax_sum(row, how_.n_vocab, first, 1.0f) * std::exp(first - best_[0].logit);
    const double off   = 1e-5 + std::ldexp(std::fabs(best_[0].logit) + 100, -22); // of the sum and of the logits
    return {sum * (1 - off), sum * (1 + off)};
}

double adjusted_row::exact_sum() const {
    double sum = 0;
    for (size_t i = 0; i < how_.n_vocab; i++) {
        sum += std::exp(how_.of(logits_, i) - best_[0].logit);
    }
    return sum;
}

} // namespace lcg
