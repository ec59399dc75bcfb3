// Python's view of the core: types in, errors out, the GIL released around work. Pointers into llama.cpp travel as
// integers; llama.py is the only caller that has any.
#include "bindings.h"

#include <algorithm>
#include <cmath>
#include <cstring>

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
        throw gate_error(
            std::string("`") + name + "` has shape " + shape_text(values) + ", expected (" + std::to_string(n) + ",)");
    }
}

namespace {

template <typename T> T * pointer(uintptr_t address) {
    if (address == 0) {
        throw gate_error("an object of llama.cpp is null: the model is closed, or was never loaded");
    }
    return reinterpret_cast<T *>(address);
}

template <typename F> void set_function(F *& slot, const std::string & name, const py::dict & addresses) {
    const auto address = addresses.contains(name) ? py::cast<uintptr_t>(addresses[py::str(name)]) : 0;
    if (address == 0) {
        throw gate_error("llama.cpp's function `" + name + "` was not found in the libraries of llama-cpp-python");
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

void require_host() {
    if (host.ggml_init == nullptr) {
        throw gate_error("the core is not connected to llama.cpp: import lcg_cpp first");
    }
}

// Sizes and offsets that Python compares with llama_cpp's ctypes structures before anything is attached.
py::dict host_layouts() {
    using namespace py::literals;
    return py::dict("llama_token_data"_a = py::dict("size"_a = sizeof(token_data), "id"_a = offsetof(token_data, id),
                        "logit"_a = offsetof(token_data, logit), "p"_a = offsetof(token_data, p)),
        "llama_token_data_array"_a       = py::dict("size"_a = sizeof(token_data_array),
            "data"_a = offsetof(token_data_array, data), "size_"_a = offsetof(token_data_array, size),
            "selected"_a = offsetof(token_data_array, selected), "sorted"_a = offsetof(token_data_array, sorted)),
        "llama_sampler"_a = py::dict("size"_a = sizeof(sampler_object), "iface"_a = offsetof(sampler_object, iface),
            "ctx"_a = offsetof(sampler_object, ctx)));
}

py::dict callbacks_dict(const stage_callbacks & callbacks) {
    using namespace py::literals;
    const auto number = [](void * address) { return reinterpret_cast<uintptr_t>(address); };
    return py::dict("name"_a = number(callbacks.name), "accept"_a = number(callbacks.accept),
        "apply"_a = number(callbacks.apply), "reset"_a = number(callbacks.reset), "clone"_a = number(callbacks.clone),
        "free"_a = number(callbacks.free));
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

py::object optional_family(int family) {
    return family == no_family ? py::none() : py::object(py::int_(family));
}

// ---- vocabulary ----

// (bytes of all tokens, int64 (n_vocab + 1,) offsets into them, uint32 (n_vocab,) attributes)
py::tuple read_vocab(uintptr_t address) {
    require_host();
    const auto *          vocab   = pointer<const llama_vocab>(address);
    const int32_t         n_vocab = host.llama_vocab_n_tokens(vocab);
    std::string           bytes;
    std::vector<char>     piece(256);
    py::array_t<int64_t>  offsets(n_vocab + 1);
    py::array_t<uint32_t> attributes(n_vocab);
    for (int32_t token = 0; token < n_vocab; token++) {
        offsets.mutable_at(token)    = static_cast<int64_t>(bytes.size());
        attributes.mutable_at(token) = static_cast<uint32_t>(host.llama_vocab_get_attr(vocab, token));
        const auto read              = [&] {
            return host.llama_token_to_piece(vocab, token, piece.data(), static_cast<int32_t>(piece.size()), 0, true);
        };
        int32_t n = read();
        if (n < 0) {
            piece.resize(static_cast<size_t>(-n));
            n = read();
        }
        bytes.append(piece.data(), static_cast<size_t>(n));
    }
    offsets.mutable_at(n_vocab) = static_cast<int64_t>(bytes.size());
    return py::make_tuple(py::bytes(bytes), offsets, attributes);
}

// ---- gate ----

py::dict tensor_table(const gate_file & file) {
    py::dict table;
    for (const host_tensor & tensor : file.weights.tensors) {
        const bool bias  = tensor.name.size() > 5 && tensor.name.compare(tensor.name.size() - 5, 5, ".bias") == 0;
        py::tuple  shape = py::make_tuple(tensor.ne[1], tensor.ne[0]);
        if (bias) {
            shape = py::make_tuple(tensor.ne[0]);
        }
        table[py::str(tensor.name)] = py::make_tuple(tensor_type_name(tensor.type), shape);
    }
    table["lcg.token_family"] =
        py::make_tuple(tensor_type_name(type_i8), py::make_tuple(file.weights.token_family.size()));
    return table;
}

array_t<float> predict(const std::shared_ptr<const gate> & gate, const array_t<float> & hidden) {
    const size_t n_embd = gate->config.n_embd, n_families = gate->config.families.size();
    if (hidden.ndim() != 2 || static_cast<size_t>(hidden.shape(1)) != n_embd) {
        throw gate_error("`hidden` has shape " + shape_text(hidden) + ", expected (n, " + std::to_string(n_embd) + ")");
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

std::vector<token_data> token_list(const gate & gate, const array_t<int32_t> & ids, const array_t<float> & logits) {
    if (ids.ndim() != 1 || logits.ndim() != 1 || ids.size() != logits.size()) {
        throw gate_error("`ids` and `logits` have " + std::to_string(ids.size()) + " and " +
                         std::to_string(logits.size()) + " elements, expected two flat arrays of one length");
    }
    std::vector<token_data> tokens;
    for (py::ssize_t i = 0; i < ids.size(); i++) {
        if (ids.at(i) < 0 || static_cast<uint32_t>(ids.at(i)) >= gate.config.n_vocab) {
            throw gate_error("`ids` holds token " + std::to_string(ids.at(i)) + ", the gate's vocabulary has " +
                             std::to_string(gate.config.n_vocab));
        }
        if (std::isnan(logits.at(i)) || logits.at(i) == INFINITY) {
            throw gate_error("`logits` holds NaN or +inf at index " + std::to_string(i));
        }
        tokens.push_back({ids.at(i), logits.at(i), 0.0f});
    }
    return tokens;
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

gate_rules make_rules(
    float threshold, bool persistence, bool confidence, bool first_token, float confidence_temperature) {
    return {threshold, persistence, confidence, first_token, confidence_temperature};
}

py::tuple decide_on(const std::shared_ptr<const gate> & gate, const array_t<int32_t> & ids,
    const array_t<float> & logits, const array_t<int32_t> & survivors, const array_t<float> & z,
    const std::optional<int> & last_family, float temperature, const gate_rules & rules, float strength) {
    check_shape(z, gate->config.families.size(), "z");
    for (py::ssize_t f = 0; f < z.size(); f++) {
        if (!std::isfinite(z.at(f))) {
            throw gate_error("`z` holds NaN or Inf at index " + std::to_string(f));
        }
    }
    const int last = last_family.value_or(no_family);
    if (last_family && (last < 0 || static_cast<size_t>(last) >= gate->config.families.size() ||
                           static_cast<uint32_t>(last) == gate->config.neutral)) {
        throw gate_error("`last` is " + std::to_string(last) + ", expected None or a family that is not neutral");
    }
    const auto           candidates = token_list(*gate, ids, logits);
    std::vector<int64_t> index(gate->config.n_vocab, -1);
    for (size_t i = 0; i < candidates.size(); i++) {
        int64_t & slot = index[static_cast<size_t>(candidates[i].id)];
        if (slot >= 0) {
            throw gate_error("`ids` holds token " + std::to_string(candidates[i].id) + " twice");
        }
        slot = static_cast<int64_t>(i);
    }
    std::vector<token_data> s;
    std::vector<bool>       in_s(candidates.size());
    for (py::ssize_t i = 0; i < survivors.size(); i++) {
        const int32_t id = survivors.data()[i];
        if (id < 0 || static_cast<size_t>(id) >= index.size() || index[static_cast<size_t>(id)] < 0) {
            throw gate_error("`survivors` holds token " + std::to_string(id) + ", which is not in `ids`");
        }
        const auto position = static_cast<size_t>(index[static_cast<size_t>(id)]);
        if (in_s[position]) {
            throw gate_error("`survivors` holds token " + std::to_string(id) + " twice");
        }
        in_s[position] = true;
        s.push_back(candidates[position]);
    }
    const decision d = decide(*gate, rules, strength, candidates, s, z.data(), last, temperature);
    return py::make_tuple(static_cast<int>(d.outcome), indices(d.predicted), indices(d.allowed), indices(d.banned),
        split_tokens(d.candidates.data(), d.candidates.size()));
}

// ---- stage ----

stage_options make_options(
    const std::string & mode, const gate_rules & rules, float strength, size_t n_events, bool eager) {
    const gate_mode m = mode == "mask" ? gate_mode::mask : mode == "observe" ? gate_mode::observe : gate_mode::off;
    return {m, rules, strength, n_events, eager};
}

chain_facts make_facts(float temperature, int32_t top_k, const std::string & end, bool direct, uintptr_t mirostat) {
    const chain_end e = end == "greedy" ? chain_end::greedy : end == "mirostat" ? chain_end::mirostat : chain_end::draw;
    return {temperature, top_k, e, direct, reinterpret_cast<llama_sampler *>(mirostat)};
}

int32_t sample(stage & self, const gate & gate, uintptr_t chain, uintptr_t context, int32_t row, tap & tap) {
    const py::gil_scoped_release release;
    auto *                       ctx    = pointer<llama_context>(context);
    const float *                logits = host.llama_get_logits_ith(ctx, row);
    if (logits == nullptr) {
        throw gate_error("llama.cpp has no logits for row " + std::to_string(row) + ": evaluate tokens first");
    }
    const float * hidden = tap.row_of(ctx, logits, gate.config.n_vocab);
    return self.sample(pointer<llama_sampler>(chain), logits, tap.n_embd() == gate.config.n_embd ? hidden : nullptr);
}

py::tuple apply_row(stage & self, const std::shared_ptr<const gate> & gate, uintptr_t chain,
    const array_t<float> & logits, const std::optional<array_t<float>> & hidden, bool direct) {
    check_shape(logits, gate->config.n_vocab, "logits");
    if (hidden) {
        check_shape(*hidden, gate->config.n_embd, "hidden");
    }
    const float *    row = logits.data();
    const float *    h   = hidden ? hidden->data() : nullptr;
    token_data_array tokens{};
    {
        const py::gil_scoped_release release;
        tokens = self.apply(pointer<llama_sampler>(chain), row, h, direct);
    }
    return split_tokens(tokens.data, tokens.size);
}

py::tuple make_samplers(const stage & self, uintptr_t shortlist_iface, uintptr_t gate_iface) {
    const auto make = [&](uintptr_t iface) {
        auto * state = new std::shared_ptr<stage::state>(self.shared());
        return reinterpret_cast<uintptr_t>(host.llama_sampler_init(pointer<llama_sampler_i>(iface), state));
    };
    return py::make_tuple(make(shortlist_iface), make(gate_iface));
}

py::dict stats_dict(const stage & self) {
    using namespace py::literals;
    const stage_stats s = self.stats();
    return py::dict("steps"_a = s.steps, "gate_runs"_a = s.gate_runs, "interventions"_a = s.interventions,
        "not_confident"_a = s.not_confident, "without_hidden"_a = s.without_hidden, "removed_mass"_a = s.removed_mass,
        "gate_seconds"_a = s.gate_seconds);
}

py::list shares(const std::vector<token_data> & tokens) {
    py::list list;
    for (const token_data & token : tokens) {
        list.append(py::make_tuple(token.id, token.p));
    }
    return list;
}

py::list event_list(const stage & self) {
    using namespace py::literals;
    py::list list;
    for (const gate_event & event : self.events()) {
        list.append(py::dict("reply"_a = event.reply, "position"_a = event.position,
            "last"_a = optional_family(event.last), "predicted"_a = indices(event.predicted),
            "allowed"_a = indices(event.allowed), "banned"_a = indices(event.banned), "z"_a = event.z,
            "removed"_a = shares(event.removed), "left"_a = shares(event.left), "chosen"_a = event.chosen));
    }
    return list;
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
        .def_property_readonly("n_embd", [](const gate & g) { return g.config.n_embd; })
        .def_property_readonly("n_hidden", [](const gate & g) { return g.config.n_hidden; })
        .def_property_readonly("n_vocab", [](const gate & g) { return g.config.n_vocab; })
        .def_property_readonly("families", [](const gate & g) { return g.config.families; })
        .def_property_readonly("maskable",
            [](const gate & g) { return std::vector<bool>(g.config.maskable.begin(), g.config.maskable.end()); })
        .def_property_readonly("neutral", [](const gate & g) { return g.config.neutral; })
        .def_property_readonly("threshold", [](const gate & g) { return g.config.threshold; })
        .def_property_readonly("exempt_tokens", [](const gate & g) { return g.config.exempt_tokens; })
        .def_property_readonly("confidence",
            [](const gate & g) {
                py::list sets;
                for (const confidence_set & set : g.config.confidence) {
                    sets.append(py::make_tuple(set.top_k, set.top_p));
                }
                return sets;
            })
        .def_property_readonly("token_families",
            [](const gate & g) {
                return py::array_t<uint8_t>(static_cast<py::ssize_t>(g.token_family.size()), g.token_family.data());
            })
        .def(
            "predict",
            [](const std::shared_ptr<gate> & g, const array_t<float> & hidden) { return predict(g, hidden); },
            py::arg("hidden"))
        .def(
            "decide",
            [](const std::shared_ptr<gate> & g, const array_t<int32_t> & ids, const array_t<float> & logits,
                const array_t<int32_t> & survivors, const array_t<float> & z, const std::optional<int> & last,
                float temperature, const gate_rules & rules,
                float strength) { return decide_on(g, ids, logits, survivors, z, last, temperature, rules, strength); },
            py::arg("ids"), py::arg("logits"), py::arg("survivors"), py::arg("z"), py::arg("last"),
            py::arg("temperature"), py::arg("rules"), py::arg("strength"));
}

array_t<float> newest_rows(tap & self, size_t n) {
    array_t<float> rows({n, self.n_embd()});
    for (size_t i = 0; i < n; i++) {
        const float * row = self.newest(n - 1 - i);
        if (row == nullptr) {
            throw gate_error("the tap has not captured " + std::to_string(n) + " hidden states");
        }
        std::copy_n(row, self.n_embd(), rows.mutable_data(static_cast<py::ssize_t>(i), 0));
    }
    return rows;
}

void bind_tap(py::module_ & m) {
    m.def("tap_callback", [] { return reinterpret_cast<uintptr_t>(&tap::on_tensor); });
    py::class_<tap>(m, "Tap")
        .def(py::init([](size_t capacity) {
            require_host();
            return std::make_unique<tap>(capacity);
        }),
            py::arg("capacity"))
        .def_property(
            "active", [](const tap & t) { return t.active.load(); }, [](tap & t, bool active) { t.active = active; })
        .def_property("capacity", &tap::capacity, &tap::set_capacity)
        .def_property_readonly("address", [](tap & t) { return reinterpret_cast<uintptr_t>(&t); })
        .def_property_readonly("n_embd", &tap::n_embd)
        .def("forget", &tap::forget)
        .def("row_of",
            [](tap & t, uintptr_t context, int32_t row, size_t n_vocab) -> py::object {
                auto *        ctx    = pointer<llama_context>(context);
                const float * logits = host.llama_get_logits_ith(ctx, row);
                const float * hidden = logits != nullptr ? t.row_of(ctx, logits, n_vocab) : nullptr;
                if (hidden == nullptr) {
                    return py::none();
                }
                return array_t<float>(static_cast<py::ssize_t>(t.n_embd()), hidden);
            })
        .def("newest", &newest_rows);
}

void bind_stage(py::module_ & m) {
    py::class_<gate_rules>(m, "Rules")
        .def(py::init(&make_rules), py::arg("threshold"), py::arg("persistence"), py::arg("confidence"),
            py::arg("first_token"), py::arg("confidence_temperature"));
    py::class_<stage_options>(m, "StageOptions")
        .def(py::init(&make_options), py::arg("mode"), py::arg("rules"), py::arg("strength"), py::arg("n_events"),
            py::arg("eager"));
    py::class_<chain_facts>(m, "ChainFacts")
        .def(py::init(&make_facts), py::arg("temperature"), py::arg("top_k"), py::arg("end"), py::arg("direct"),
            py::arg("mirostat") = 0);

    // The Python object keeps the gate for the checks of apply_row; the state inside keeps it for everything else.
    struct python_stage : stage {
        std::shared_ptr<const gate> model;
        python_stage(const std::shared_ptr<gate> & g, const stage_options & options) : stage(g, options), model(g) {}
    };
    py::class_<python_stage>(m, "Stage")
        .def(py::init<const std::shared_ptr<gate> &, const stage_options &>(), py::arg("gate").none(false),
            py::arg("options"))
        .def("set_options", &python_stage::set_options)
        .def("begin_reply", &python_stage::begin_reply, py::arg("facts"), py::arg("continued") = false)
        .def("make_samplers", [](const python_stage & s, uintptr_t a, uintptr_t b) { return make_samplers(s, a, b); })
        .def("sample", [](python_stage & s, uintptr_t chain, uintptr_t context, int32_t row,
                           tap & tap) { return sample(s, *s.model, chain, context, row, tap); })
        .def("apply_row", [](python_stage & s, uintptr_t chain, const array_t<float> & logits,
                              const std::optional<array_t<float>> & hidden,
                              bool direct) { return apply_row(s, s.model, chain, logits, hidden, direct); })
        .def("stats", [](const python_stage & s) { return stats_dict(s); })
        .def("events", [](const python_stage & s) { return event_list(s); })
        .def("reset_stats", &python_stage::reset_stats);
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
    m.def("shortlist_callbacks", [] { return callbacks_dict(shortlist_callbacks()); });
    m.def("gate_callbacks", [] { return callbacks_dict(gate_callbacks()); });
    m.def("read_vocab", &read_vocab);
    bind_gate(m);
    bind_rows(m);
    bind_tap(m);
    bind_stage(m);
}
