// Python's view of the label kernel.
#include "bindings.h"

using namespace lcg;

namespace {

// Labels and top tokens read the caller's array in place: a view on llama.cpp's logits has no room for a copy.
logit_rows rows_of(const array_t<float> & logits) {
    if (logits.ndim() != 2 || logits.shape(1) == 0) {
        throw gate_error("`logits` has shape " + shape_text(logits) + ", expected (n, n_vocab)");
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

py::tuple top_rows(const array_t<float> & logits, size_t k, double temperature, size_t n_threads) {
    const logit_rows rows = rows_of(logits);
    if (k < 1 || k > rows.n_vocab) {
        throw gate_error("`k` is " + std::to_string(k) + ", expected 1 to " + std::to_string(rows.n_vocab));
    }
    py::array_t<int32_t> ids({rows.n, k});
    py::array_t<float>   best({rows.n, k});
    py::array_t<double>  log_sum(static_cast<py::ssize_t>(rows.n));
    int32_t *            id_data   = ids.mutable_data();
    float *              best_data = best.mutable_data();
    double *             sum_data  = log_sum.mutable_data();
    {
        const py::gil_scoped_release release;
        top_tokens(rows, k, temperature, n_threads, id_data, best_data, sum_data);
    }
    return py::make_tuple(ids, best, log_sum);
}

} // namespace

void bind_labels(py::module_ & m) {
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
    m.def("top_tokens", &top_rows, py::arg("logits").noconvert(), py::arg("k"), py::arg("temperature"),
        py::arg("n_threads"));
}
