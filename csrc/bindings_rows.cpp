// Python's view of what judges many positions at once: labels, S and H of rows of logits, the rules.
#include "bindings.h"
#include "rows.h"

#include <algorithm>

using namespace lcg;

namespace {

// All read the caller's array in place: a view on llama.cpp's logits has no room for a copy.
logit_rows rows_of(const array_t<float> & logits) {
    if (logits.ndim() != 2 || logits.shape(1) == 0) {
        throw gate_error(joined("`logits` has shape ", shape_text(logits), ", expected (n, n_vocab)"));
    }
    return {logits.data(), static_cast<size_t>(logits.shape(0)), static_cast<size_t>(logits.shape(1))};
}

py::array_t<float> label_rows(const array_t<float> & logits, const std::optional<array_t<float>> & norms,
    const array_t<uint8_t> & families, const label_options & options, size_t n_threads) {
    const logit_rows rows = rows_of(logits);
    check_shape(families, rows.n_vocab, "families");
    if (norms) {
        check_shape(*norms, rows.n_vocab, "norms");
    }
    const float *      divisors = norms ? norms->data() : nullptr;
    const uint8_t *    family   = families.data();
    py::array_t<float> labels({rows.n, options.n_families});
    float *            out = labels.mutable_data();
    {
        const py::gil_scoped_release release;
        family_labels(rows, divisors, family, options, n_threads, out);
    }
    return labels;
}

py::tuple steps_of(const array_t<float> & logits, size_t n_best, const step_options & options, size_t n_threads) {
    const logit_rows rows  = rows_of(logits);
    n_best                 = std::min(n_best, rows.n_vocab);
    const auto           n = static_cast<py::ssize_t>(rows.n);
    py::array_t<int32_t> ids({rows.n, n_best}), n_survivors(n), n_confident(n);
    py::array_t<float>   best({rows.n, n_best});
    py::array_t<double>  log_sum(n);
    const step_results   results = {n_best, ids.mutable_data(), best.mutable_data(), log_sum.mutable_data(),
        n_survivors.mutable_data(), n_confident.mutable_data()};
    {
        const py::gil_scoped_release release;
        read_steps(rows, options, n_threads, results);
    }
    return py::make_tuple(ids, best, log_sum, n_survivors, n_confident);
}

py::tuple likely_of(const array_t<float> & logits, const std::vector<std::optional<array_t<float>>> & norms,
    size_t order, size_t n_best, double softcap, size_t n_threads) {
    const logit_rows           rows = rows_of(logits);
    std::vector<const float *> divisors;
    for (const auto & one : norms) {
        if (one) {
            check_shape(*one, rows.n_vocab, "norms");
        }
        divisors.push_back(one ? one->data() : nullptr);
    }
    if (order >= norms.size()) {
        throw gate_error(joined("`order` is ", order, ", expected less than ", norms.size()));
    }
    n_best = std::min(n_best, rows.n_vocab);
    py::array_t<int32_t> ids({rows.n, n_best});
    py::array_t<double>  log_sums({rows.n, norms.size()});
    const likely_results results = {n_best, order, ids.mutable_data(), log_sums.mutable_data()};
    {
        const py::gil_scoped_release release;
        read_likely(rows, divisors, softcap, n_threads, results);
    }
    return py::make_tuple(ids, log_sums);
}

void check_table(const py::array & values, size_t n, size_t n_families, const char * name) {
    if (values.ndim() != 2 || static_cast<size_t>(values.shape(0)) != n ||
        static_cast<size_t>(values.shape(1)) != n_families) {
        throw gate_error(
            joined("`", name, "` has shape ", shape_text(values), ", expected (", n, ", ", n_families, ")"));
    }
}

family_set set_of(const bool * row, size_t n_families) {
    family_set families;
    for (size_t f = 0; f < n_families; f++) {
        families.set(f, row[f]);
    }
    return families;
}

void put(const family_set & families, bool * row, size_t n_families) {
    for (size_t f = 0; f < n_families; f++) {
        row[f] = families[f];
    }
}

py::tuple judge(const gate_rules & rules, float strength, const array_t<bool> & maskable, const array_t<float> & z,
    const array_t<int64_t> & last, const array_t<bool> & survivors, const array_t<bool> & confident,
    const array_t<bool> & confident_masked) {
    const auto n = static_cast<size_t>(last.size()), n_families = static_cast<size_t>(maskable.size());
    check_shape(maskable, n_families, "maskable");
    check_thresholds(rules, n_families);
    check_shape(last, n, "last");
    check_table(z, n, n_families, "z");
    check_table(survivors, n, n_families, "survivors");
    check_table(confident, n, n_families, "confident");
    check_table(confident_masked, n, n_families, "confident_masked");
    if (n_families < 1 || n_families > max_families) {
        throw gate_error(joined("`maskable` has ", n_families, " families, expected 1 to ", max_families));
    }
    py::array_t<uint8_t> verdicts(static_cast<py::ssize_t>(n));
    py::array_t<bool>    predicted({n, n_families}), allowed({n, n_families}), banned({n, n_families});
    const family_set     may_go = set_of(maskable.data(), n_families);
    for (size_t i = 0; i < n; i++) {
        const size_t  begin  = i * n_families;
        const int64_t newest = last.data()[i];
        if (newest < no_family || newest >= static_cast<int64_t>(n_families)) {
            throw gate_error(joined("`last` is ", newest, " at position ", i, ", expected -1 to ", n_families - 1));
        }
        const int        last = static_cast<int>(newest);
        const prediction p    = predict_families(z.data() + begin, rules.thresholds, last);
        const auto       h    = [&] {
            return confident_families{
                set_of(confident.data() + begin, n_families), set_of(confident_masked.data() + begin, n_families)};
        };
        const ruling found = rule(rules, strength, may_go, p, last, set_of(survivors.data() + begin, n_families), h);
        verdicts.mutable_data()[i] = static_cast<uint8_t>(found.outcome);
        put(found.predicted, predicted.mutable_data() + begin, n_families);
        put(found.allowed, allowed.mutable_data() + begin, n_families);
        put(found.banned, banned.mutable_data() + begin, n_families);
    }
    return py::make_tuple(verdicts, predicted, allowed, banned);
}

} // namespace

void bind_rows(py::module_ & m) {
    m.def(
        "family_labels",
        [](const array_t<float> & logits, const std::optional<array_t<float>> & norms,
            const array_t<uint8_t> & families, size_t n_families, size_t top_k, double top_p, bool soft, double softcap,
            size_t n_threads) {
            return label_rows(logits, norms, families, {n_families, top_k, top_p, soft, softcap}, n_threads);
        },
        py::arg("logits").noconvert(), py::arg("norms").noconvert(), py::arg("families").noconvert(),
        py::arg("n_families"), py::arg("top_k"), py::arg("top_p"), py::arg("soft"), py::arg("softcap"),
        py::arg("n_threads"));
    m.def(
        "read_steps",
        [](const array_t<float> & logits, size_t n_best, size_t top_k, float top_p, float temperature,
            float confident_at, const std::vector<std::pair<uint32_t, float>> & confidence, size_t n_threads) {
            step_options options = {top_k, top_p, temperature, confident_at, {}};
            for (const auto & [set_k, set_p] : confidence) {
                options.confidence.push_back({set_k, set_p});
            }
            return steps_of(logits, n_best, options, n_threads);
        },
        py::arg("logits").noconvert(), py::arg("n_best"), py::arg("top_k"), py::arg("top_p"), py::arg("temperature"),
        py::arg("confident_at"), py::arg("confidence"), py::arg("n_threads"));
    m.def("read_likely", &likely_of, py::arg("logits").noconvert(), py::arg("norms").noconvert(), py::arg("order"),
        py::arg("n_best"), py::arg("softcap"), py::arg("n_threads"));
    m.def("judge", &judge, py::arg("rules"), py::arg("strength"), py::arg("maskable"), py::arg("z"), py::arg("last"),
        py::arg("survivors"), py::arg("confident"), py::arg("confident_masked"));
}
