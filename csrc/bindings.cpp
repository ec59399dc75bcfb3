// Python's view of the core: types in, errors out, the GIL released around work. Pointers into llama.cpp travel as
// integers; llama.py is the only caller that has any.
#include "bindings.h"

#include "labels.h"
#include "vocab.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <unordered_map>
#include <unordered_set>

using namespace lcg;

std::string shape_text(const py::array & values) {
    std::string shape = "(";
    for (py::ssize_t i = 0; i < values.ndim(); i++) {
        shape += (i ? ", " : "") + std::to_string(values.shape(i));
    }
    return shape + (values.ndim() == 1 ? ",)" : ")");
}

void check_shape(const py::array & values, size_t n, const char * name) {
    if (values.ndim() != 1 || static_cast<size_t>(values.size()) != n) {
        throw gate_error(joined("`", name, "` has shape ", shape_text(values), ", expected (", n, ",)"));
    }
}

std::vector<size_t> indices(const family_set & families) {
    std::vector<size_t> list;
    for (size_t f = 0; f < families.size(); f++) {
        if (families[f]) {
            list.push_back(f);
        }
    }
    return list;
}

void check_thresholds(const gate_rules & rules, size_t n_families) {
    const auto & [usual, first, allow] = rules.thresholds;
    for (const auto & [name, n] : {std::pair("thresholds", usual.size()), std::pair("first_thresholds", first.size()),
             std::pair("allow_thresholds", allow.empty() ? n_families : allow.size())}) {
        if (n != n_families) {
            throw gate_error(
                joined("`", name, "` has ", n, " elements, expected ", n_families, ", one for each family"));
        }
    }
}

py::array_t<uint8_t> copied(const std::vector<uint8_t> & values) {
    return py::array_t<uint8_t>(static_cast<py::ssize_t>(values.size()), values.data());
}

void require_host() {
    if (host.ggml_init == nullptr) {
        throw gate_error("the core is not connected to llama.cpp: import lcg_cpp first");
    }
}

py::tuple split_tokens(const token_data * tokens, size_t n) {
    py::array_t<int32_t> ids(static_cast<py::ssize_t>(n));
    py::array_t<float>   logits(static_cast<py::ssize_t>(n));
    for (size_t i = 0; i < n; i++) {
        ids.mutable_at(i)    = tokens[i].id;
        logits.mutable_at(i) = tokens[i].logit;
    }
    return py::make_tuple(ids, logits);
}

namespace {

template <typename F> void set_function(F *& slot, const std::string & name, const py::dict & addresses) {
    const auto address = addresses.contains(name) ? py::cast<uintptr_t>(addresses[py::str(name)]) : 0;
    if (address == 0) {
        throw gate_error(
            joined("llama.cpp's function `", name, "` was not found in the libraries of llama-cpp-python"));
    }
    slot = reinterpret_cast<F *>(address);
}

void set_host_api(const py::dict & addresses) {
    host_api api;
#define LCG_SET(name, result, parameters) set_function(api.name, #name, addresses);
    LCG_HOST_FUNCTIONS(LCG_SET)
#undef LCG_SET
    host = api;
}

std::vector<std::string> host_functions() {
    return {
#define LCG_NAME(name, result, parameters) #name,
        LCG_HOST_FUNCTIONS(LCG_NAME)
#undef LCG_NAME
    };
}

// Sizes and offsets that Python compares with llama_cpp's ctypes structures before anything is attached.
std::map<std::string, std::map<std::string, size_t>> host_layouts() {
    return {{"llama_token_data", {{"size", sizeof(token_data)}, {"id", offsetof(token_data, id)},
                                     {"logit", offsetof(token_data, logit)}, {"p", offsetof(token_data, p)}}},
        {"llama_token_data_array",
            {{"size", sizeof(token_data_array)}, {"data", offsetof(token_data_array, data)},
                {"size_", offsetof(token_data_array, size)}, {"selected", offsetof(token_data_array, selected)},
                {"sorted", offsetof(token_data_array, sorted)}}},
        {"llama_sampler", {{"size", sizeof(sampler_object)}, {"iface", offsetof(sampler_object, iface)},
                              {"ctx", offsetof(sampler_object, ctx)}}},
        {"llama_sampler_i",
            {{"name", offsetof(sampler_functions, name)}, {"accept", offsetof(sampler_functions, accept)},
                {"apply", offsetof(sampler_functions, apply)}, {"reset", offsetof(sampler_functions, reset)},
                {"clone", offsetof(sampler_functions, clone)}, {"free", offsetof(sampler_functions, free)}}}};
}

// ---- vocabulary ----

// (bytes of all tokens, int64 (n_vocab + 1,) offsets into them, uint32 (n_vocab,) attributes)
py::tuple read_vocab(uintptr_t address) {
    require_host();
    const auto *          vocab   = pointer<const llama_vocab>(address);
    const int32_t         n_vocab = host.llama_vocab_n_tokens(vocab);
    const auto            texts   = texts_of(vocab);
    py::array_t<uint32_t> attributes(n_vocab);
    for (int32_t token = 0; token < n_vocab; token++) {
        attributes.mutable_at(token) = static_cast<uint32_t>(host.llama_vocab_get_attr(vocab, token));
    }
    const py::array_t<int64_t> offsets(n_vocab + 1, texts->offset.data());
    return py::make_tuple(py::bytes(texts->bytes), offsets, attributes);
}

// ---- gate ----

py::dict tensor_table(const gate_file & file) {
    py::dict table;
    for (const host_tensor & tensor : file.weights.tensors) {
        const bool is_bias = tensor.name.find(".bias") != std::string::npos;
        py::tuple  shape =
            is_bias ? py::tuple(py::make_tuple(tensor.ne[0])) : py::make_tuple(tensor.ne[1], tensor.ne[0]);
        table[py::str(tensor.name)] = py::make_tuple(tensor_type_name(tensor.type), shape);
    }
    table["lcg.token_family"] =
        py::make_tuple(tensor_type_name(type_i8), py::make_tuple(file.weights.token_family.size()));
    return table;
}

array_t<float> predict(const std::shared_ptr<gate> & gate, const array_t<float> & hidden) {
    const size_t n_embd = gate->config.n_embd, n_families = gate->config.families.size();
    if (hidden.ndim() != 2 || static_cast<size_t>(hidden.shape(1)) != n_embd) {
        throw gate_error(joined("`hidden` has shape ", shape_text(hidden), ", expected (n, ", n_embd, ")"));
    }
    if (!gate->weights) {
        throw gate_error("a training-free gate has no weights: it predicts from the logits of a step alone");
    }
    const auto     n = static_cast<size_t>(hidden.shape(0));
    array_t<float> z({n, n_families});
    const float *  in  = hidden.data();
    float *        out = z.mutable_data();
    {
        const py::gil_scoped_release release;
        constexpr size_t             chunk = 256;
        std::unique_ptr<evaluator>   mlp;
        size_t                       n_columns = 0;
        for (size_t i = 0; i < n; i += n_columns) {
            const size_t columns = std::min(chunk, n - i);
            if (columns != n_columns) {
                n_columns = columns;
                mlp       = std::make_unique<evaluator>(gate, n_columns);
            }
            mlp->run(in + i * n_embd, out + i * n_families);
        }
    }
    return z;
}

std::shared_ptr<gate> training_free(const gate & source, const array_t<uint8_t> & families,
    const std::optional<array_t<float>> & norms, size_t top_k, double top_p, double softcap,
    const std::vector<size_t> & siblings) {
    const size_t n_vocab = source.config.n_vocab;
    check_shape(families, n_vocab, "families");
    label_rule rule{{families.data(), families.data() + n_vocab}, {},
        {source.config.families.size(), top_k, top_p, false, softcap}, {}};
    for (const size_t f : siblings) {
        rule.siblings.set(f);
    }
    if (norms) {
        check_shape(*norms, n_vocab, "norms");
        rule.norms.assign(norms->data(), norms->data() + n_vocab);
    }
    return std::const_pointer_cast<gate>(without_training(source, std::move(rule)));
}

std::vector<token_data> token_list(const gate & gate, const array_t<int32_t> & ids, const array_t<float> & logits) {
    if (ids.ndim() != 1 || logits.ndim() != 1 || ids.size() != logits.size()) {
        throw gate_error(joined("`ids` and `logits` have ", ids.size(), " and ", logits.size(),
            " elements, expected two flat arrays of one length"));
    }
    std::vector<token_data> tokens;
    for (py::ssize_t i = 0; i < ids.size(); i++) {
        if (ids.at(i) < 0 || static_cast<uint32_t>(ids.at(i)) >= gate.config.n_vocab) {
            throw gate_error(
                joined("`ids` holds token ", ids.at(i), ", the gate's vocabulary has ", gate.config.n_vocab));
        }
        if (std::isnan(logits.at(i)) || logits.at(i) == INFINITY) {
            throw gate_error(joined("`logits` holds NaN or +inf at index ", i));
        }
        tokens.push_back({ids.at(i), logits.at(i), 0.0f});
    }
    return tokens;
}

py::tuple decide_on(const gate & gate, const array_t<int32_t> & ids, const array_t<float> & logits,
    const array_t<int32_t> & survivors, const array_t<float> & z, const std::optional<int> & last_family,
    float temperature, const gate_rules & rules, float strength) {
    check_shape(z, gate.config.families.size(), "z");
    check_thresholds(rules, gate.config.families.size());
    for (py::ssize_t f = 0; f < z.size(); f++) {
        if (!std::isfinite(z.at(f))) {
            throw gate_error(joined("`z` holds NaN or Inf at index ", f));
        }
    }
    const int last = last_family.value_or(no_family);
    if (last_family && (last < 0 || static_cast<size_t>(last) >= gate.config.families.size() ||
                           static_cast<uint32_t>(last) == gate.config.neutral)) {
        throw gate_error(joined("`last` is ", last, ", expected None or a family that is not neutral"));
    }
    const auto                          candidates = token_list(gate, ids, logits);
    std::unordered_map<int32_t, size_t> index;
    for (size_t i = 0; i < candidates.size(); i++) {
        if (!index.emplace(candidates[i].id, i).second) {
            throw gate_error(joined("`ids` holds token ", candidates[i].id, " twice"));
        }
    }
    std::vector<token_data>     s;
    std::unordered_set<int32_t> in_s;
    for (py::ssize_t i = 0; i < survivors.size(); i++) {
        const int32_t id    = survivors.data()[i];
        const auto    found = index.find(id);
        if (found == index.end()) {
            throw gate_error(joined("`survivors` holds token ", id, ", which is not in `ids`"));
        }
        if (!in_s.insert(id).second) {
            throw gate_error(joined("`survivors` holds token ", id, " twice"));
        }
        s.push_back(candidates[found->second]);
    }
    const decision d = decide(gate, rules, strength, candidates, s, z.data(), last, temperature);
    return py::make_tuple(static_cast<int>(d.outcome), indices(d.predicted), indices(d.allowed), indices(d.banned),
        split_tokens(d.candidates.data(), d.candidates.size()));
}

void bind_gate(py::module_ & m) {
    py::class_<gate_file>(m, "GateFile")
        .def_property_readonly("metadata",
            [](const gate_file & f) {
                py::dict metadata;
                for (const auto & [key, value] : f.metadata) {
                    metadata[py::str(key)] = value;
                }
                return metadata;
            })
        .def_property_readonly("tensors", &tensor_table);
    m.def("parse_gate_file", [](const py::bytes & data, const py::str & source) {
        // a file name need not be UTF-8: its odd bytes travel to the message and back as Python wrote them
        const auto path =
            py::reinterpret_steal<py::bytes>(PyUnicode_AsEncodedString(source.ptr(), "utf-8", "surrogateescape"));
        if (!path) {
            throw py::error_already_set();
        }
        const std::string            name = path;
        const std::string_view       view = data;
        const py::gil_scoped_release release;
        return parse_gate_file(reinterpret_cast<const uint8_t *>(view.data()), view.size(), name);
    });

    py::class_<gate, std::shared_ptr<gate>>(m, "Gate")
        .def(py::init([](const gate_file & file, const std::string & device) {
            require_host();
            const py::gil_scoped_release release;
            return std::const_pointer_cast<gate>(load_gate(file, device));
        }))
        .def_property_readonly("device", [](const gate & g) { return g.device; })
        .def_property_readonly("architecture", [](const gate & g) { return g.config.architecture; })
        .def_property_readonly("rules", [](const gate & g) { return g.config.rules; })
        .def_property_readonly("tokenizer_hash", [](const gate & g) { return g.config.tokenizer_hash; })
        .def_property_readonly("fingerprint", [](const gate & g) { return g.config.fingerprint; })
        .def_property_readonly("n_embd", [](const gate & g) { return g.config.n_embd; })
        .def_property_readonly("n_hidden", [](const gate & g) { return g.config.n_hidden; })
        .def_property_readonly("n_vocab", [](const gate & g) { return g.config.n_vocab; })
        .def_property_readonly("families", [](const gate & g) { return g.config.families; })
        .def_property_readonly("maskable",
            [](const gate & g) { return std::vector<bool>(g.config.maskable.begin(), g.config.maskable.end()); })
        .def_property_readonly("neutral", [](const gate & g) { return g.config.neutral; })
        .def_property_readonly("thresholds", [](const gate & g) { return g.config.thresholds.usual; })
        .def_property_readonly("first_thresholds", [](const gate & g) { return g.config.thresholds.first; })
        .def_property_readonly("allow_thresholds", [](const gate & g) { return g.config.thresholds.allow; })
        .def_property_readonly("exempt_tokens", [](const gate & g) { return g.config.exempt_tokens; })
        .def_property_readonly("confidence",
            [](const gate & g) {
                py::list sets;
                for (const confidence_set & set : g.config.confidence) {
                    sets.append(py::make_tuple(set.top_k, set.top_p));
                }
                return sets;
            })
        .def_property_readonly("token_families", [](const gate & g) { return copied(g.token_family); })
        .def_property_readonly("masked_as", [](const gate & g) { return copied(g.masked_as); })
        .def("predict", &predict, py::arg("hidden"))
        .def("training_free", &training_free, py::arg("families"), py::arg("norms"), py::arg("top_k"), py::arg("top_p"),
            py::arg("softcap"), py::arg("siblings"))
        .def("decide", &decide_on);
}

} // namespace

PYBIND11_MODULE(_core, m) {
    m.doc()                           = "The C++ core of lcg-cpp. Not a public interface: use lcg_cpp.";
    static py::object gate_error_type = py::module_::import("lcg_cpp.errors").attr("GateError");
    py::register_exception_translator([](std::exception_ptr error) {
        try {
            std::rethrow_exception(error);
        } catch (const gate_error & e) {
            const auto message = py::reinterpret_steal<py::object>(
                PyUnicode_DecodeUTF8(e.what(), static_cast<Py_ssize_t>(std::strlen(e.what())), "surrogateescape"));
            PyErr_SetObject(gate_error_type.ptr(), message.ptr());
        }
    });
    m.def("host_functions", &host_functions);
    m.def("set_host_api", &set_host_api);
    m.def("host_layouts", &host_layouts);
    m.def("read_vocab", &read_vocab);
    m.def("has_tokenizer_hash", [](uintptr_t vocab, const std::string & hash) {
        return has_tokenizer_hash(pointer<const llama_vocab>(vocab), hash);
    });
    bind_gate(m);
    bind_rows(m);
    bind_tap(m);
    bind_stage(m);
}
