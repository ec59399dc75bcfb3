// Python's view of what runs inside a sampling chain: the two stages, and the tap of the hidden states.
#include "bindings.h"

#include "letters.h"
#include "tap.h"

#include <algorithm>

using namespace lcg;

namespace {

py::object optional_family(int family) {
    return family == no_family ? py::none() : py::object(py::int_(family));
}

gate_rules make_rules(const std::vector<float> & thresholds, const std::vector<float> & first_thresholds,
    const std::vector<float> & allow_thresholds, bool persistence, bool confidence, bool first_token,
    float confidence_temperature) {
    return {
        {thresholds, first_thresholds, allow_thresholds}, persistence, confidence, first_token, confidence_temperature};
}

conduct make_conduct(
    const std::string & mode, const gate_rules & rules, float strength, const std::shared_ptr<pin> & pinned) {
    const gate_mode m = mode == "mask" ? gate_mode::mask : mode == "observe" ? gate_mode::observe : gate_mode::off;
    return {m, rules, strength, pinned};
}

stage_options make_options(
    const conduct & usual, size_t n_events, bool eager, const std::shared_ptr<phase_set> & phases) {
    stage_options options;
    options.usual    = usual;
    options.n_events = n_events;
    options.eager    = eager;
    options.phases   = phases;
    return options;
}

std::shared_ptr<token_texts> make_texts(const std::string & bytes, const array_t<int64_t> & offset) {
    const int64_t *   o = offset.data();
    const py::ssize_t n = offset.size();
    if (n < 1 || !std::is_sorted(o, o + n) || o[0] != 0 || static_cast<size_t>(o[n - 1]) != bytes.size()) {
        throw gate_error("`offset` does not divide `bytes`, expected a part for each token");
    }
    return std::make_shared<token_texts>(token_texts{bytes, {o, o + n}});
}

std::shared_ptr<letter_table> make_letters(const array_t<uint8_t> & family, uint8_t neutral,
    const std::shared_ptr<token_texts> & texts, const array_t<uint8_t> & free) {
    check_shape(family, n_code_points, "family");
    check_shape(free, texts->n_vocab(), "free");
    auto table = std::make_shared<letter_table>();
    table->family.assign(family.data(), family.data() + family.size());
    table->neutral = neutral;
    table->texts   = texts;
    table->free.assign(free.data(), free.data() + free.size());
    for (const uint8_t f : table->family) {
        if (f >= max_families && f != unassigned) {
            throw gate_error("`family` holds " + std::to_string(f) + ", expected at most " +
                             std::to_string(max_families - 1) + ", or " + std::to_string(unassigned));
        }
    }
    return table;
}

std::shared_ptr<pin> make_pin(const std::shared_ptr<letter_table> & table, const std::vector<size_t> & denied,
    const std::vector<uint32_t> & kept) {
    family_set families;
    for (const size_t f : denied) {
        families.set(f);
    }
    return std::make_shared<pin>(table, families, kept);
}

// Text, or ids of tokens.
using mark_value = std::variant<py::bytes, std::vector<int32_t>>;

mark make_mark(const mark_value & value) {
    if (const auto * tokens = std::get_if<std::vector<int32_t>>(&value)) {
        return {*tokens, true};
    }
    const std::string text = std::get<py::bytes>(value);
    return mark(text);
}

phase make_phase(const mark_value & begin, const mark_value & end, bool leading, const conduct & options) {
    return {make_mark(begin), make_mark(end), leading, options};
}

std::shared_ptr<phase_set> make_phases(const std::shared_ptr<token_texts> & texts, const std::vector<phase> & phases) {
    return std::make_shared<phase_set>(texts, phases);
}

// By name: the pairs of marks, and whether the first one counts only at the start.
py::dict named_mark_table() {
    py::dict table;
    for (const named_marks & named : all_named_marks()) {
        py::list pairs;
        for (const auto & [begin, end] : named.pairs) {
            pairs.append(py::make_tuple(begin, end));
        }
        table[py::str(named.name)] = py::make_tuple(py::tuple(pairs), named.leading);
    }
    return table;
}

void check_options(const stage_options & options, const gate & gate) {
    check_thresholds(options.usual.rules, gate.config.families.size());
    for (size_t i = 0; options.phases && i < options.phases->phases.size(); i++) {
        check_thresholds(options.phases->phases[i].options.rules, gate.config.families.size());
    }
}

// The Python object keeps the gate for the checks of apply_row; the state inside keeps it for everything else.
struct python_stages : stage_pair {
    std::shared_ptr<const gate> model;
    python_stages(std::shared_ptr<const gate> g, const stage_options & options) : stage_pair(g, options), model(g) {
        check_options(options, *g);
    }
    void set_options(const stage_options & options) {
        check_options(options, *model);
        stage_pair::set_options(options);
    }
};

int32_t sample(python_stages & self, uintptr_t chain, uintptr_t context, int32_t row, tap & tap) {
    const py::gil_scoped_release release;
    auto *                       ctx    = pointer<llama_context>(context);
    const float *                logits = host.llama_get_logits_ith(ctx, row);
    if (logits == nullptr) {
        throw gate_error(joined("llama.cpp has no logits for row ", row, ": evaluate tokens first"));
    }
    const gate &  gate   = *self.model;
    const float * hidden = gate.weights ? tap.row_of(ctx, logits, gate.config.n_vocab) : nullptr;
    return self.sample(pointer<llama_sampler>(chain), logits, tap.n_embd() == gate.config.n_embd ? hidden : nullptr);
}

py::tuple apply_row(python_stages & self, uintptr_t chain, const array_t<float> & logits,
    const std::optional<array_t<float>> & hidden, bool direct) {
    check_shape(logits, self.model->config.n_vocab, "logits");
    if (hidden) {
        check_shape(*hidden, self.model->config.n_embd, "hidden");
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

// (index of the shortlist, index of the gate, facts)
py::tuple insert(const python_stages & self, uintptr_t chain, float temperature, int32_t top_k) {
    const placement place = insert_stages(pointer<llama_sampler>(chain), self.shared(), temperature, top_k);
    return py::make_tuple(place.shortlist, place.gate, place.facts);
}

py::dict stats_dict(const python_stages & self) {
    using namespace py::literals;
    const stage_stats s = self.stats();
    return py::dict("steps"_a = s.steps, "gate_runs"_a = s.gate_runs, "interventions"_a = s.interventions,
        "observed"_a = s.observed, "not_confident"_a = s.not_confident, "without_hidden"_a = s.without_hidden,
        "removed_mass"_a = s.removed_mass, "gate_seconds"_a = s.gate_seconds, "pin_yields"_a = s.pin_yields);
}

py::list shares(const std::vector<token_data> & tokens) {
    py::list list;
    for (const token_data & token : tokens) {
        list.append(py::make_tuple(token.id, token.p));
    }
    return list;
}

py::list event_list(const python_stages & self) {
    using namespace py::literals;
    py::list list;
    for (const gate_event & event : self.events()) {
        list.append(
            py::dict("reply"_a = event.reply, "position"_a = event.position, "last"_a = optional_family(event.last),
                "observed"_a = event.observed, "predicted"_a = indices(event.predicted),
                "allowed"_a = indices(event.allowed), "banned"_a = indices(event.banned), "z"_a = event.z,
                "removed"_a = shares(event.removed), "left"_a = shares(event.left), "chosen"_a = event.chosen));
    }
    return list;
}

array_t<float> newest_rows(tap & self, size_t n) {
    array_t<float> rows({n, self.n_embd()});
    for (size_t i = 0; i < n; i++) {
        const float * row = self.newest(n - 1 - i);
        if (row == nullptr) {
            throw gate_error(joined("the tap has not captured ", n, " hidden states"));
        }
        std::copy_n(row, self.n_embd(), rows.mutable_data(static_cast<py::ssize_t>(i), 0));
    }
    return rows;
}

} // namespace

void bind_tap(py::module_ & m) {
    m.def("tap_callback", [] { return reinterpret_cast<uintptr_t>(&tap::on_tensor); });
    py::class_<tap>(m, "Tap")
        .def(py::init([](size_t capacity, bool keys) {
            require_host();
            return std::make_unique<tap>(capacity, keys);
        }),
            py::arg("capacity"), py::arg("keys") = false)
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
    m.def("character_families", [] {
        const std::vector<uint8_t> & families = character_families();
        return array_t<uint8_t>(static_cast<py::ssize_t>(families.size()), families.data());
    });
    m.def(
        "denied_families",
        [](const std::string & allow, const std::string & deny) { return indices(denied_families(allow, deny)); },
        py::arg("allow"), py::arg("deny"));
    m.attr("PROMPT_END") = n_prompt_end;
    m.def("named_marks", &named_mark_table);
    py::class_<gate_rules>(m, "Rules")
        .def(py::init(&make_rules), py::arg("thresholds"), py::arg("first_thresholds"), py::arg("allow_thresholds"),
            py::arg("persistence"), py::arg("confidence"), py::arg("first_token"), py::arg("confidence_temperature"));
    py::class_<token_texts, std::shared_ptr<token_texts>>(m, "TokenTexts")
        .def(py::init(&make_texts), py::arg("bytes"), py::arg("offset"));
    py::class_<letter_table, std::shared_ptr<letter_table>>(m, "LetterTable")
        .def(py::init(&make_letters), py::arg("family"), py::arg("neutral"), py::arg("texts").none(false),
            py::arg("free"));
    py::class_<pin, std::shared_ptr<pin>>(m, "Pin")
        .def(py::init(&make_pin), py::arg("table"), py::arg("denied"), py::arg("kept"))
        .def("away", [](const pin & self, const std::vector<int32_t> & tokens) {
            open_character       open;
            std::vector<uint8_t> scratch;
            for (const int32_t token : tokens) {
                open = self.after(open, token);
            }
            return array_t<bool>(
                static_cast<py::ssize_t>(self.n_vocab()), reinterpret_cast<const bool *>(self.away(open, scratch)));
        });
    py::class_<conduct>(m, "Conduct")
        .def(py::init(&make_conduct), py::arg("mode"), py::arg("rules"), py::arg("strength"),
            py::arg("pinned") = nullptr);
    py::class_<phase>(m, "Phase")
        .def(py::init(&make_phase), py::arg("begin"), py::arg("end"), py::arg("leading"), py::arg("options"));
    py::class_<phase_set, std::shared_ptr<phase_set>>(m, "PhaseSet")
        .def(py::init(&make_phases), py::arg("texts").none(false), py::arg("phases"));
    py::class_<stage_options>(m, "StageOptions")
        .def(py::init(&make_options), py::arg("usual"), py::arg("n_events"), py::arg("eager"),
            py::arg("phases") = nullptr);
    py::class_<chain_facts>(m, "ChainFacts");

    py::class_<python_stages>(m, "StagePair")
        .def(py::init([](const std::shared_ptr<gate> & g, const stage_options & options) {
            return std::make_unique<python_stages>(g, options);
        }),
            py::arg("gate").none(false), py::arg("options"))
        .def_static(
            "without_gate",
            [](size_t n_vocab, const stage_options & options) {
                require_host();
                return std::make_unique<python_stages>(no_gate(n_vocab), options);
            },
            py::arg("n_vocab"), py::arg("options"))
        .def_property_readonly("has_gate", [](const python_stages & s) { return s.model->acts(); })
        .def("set_options", &python_stages::set_options)
        .def("begin_reply", &python_stages::begin_reply, py::arg("facts"), py::arg("continued") = false)
        .def("read_prompt", &python_stages::read_prompt, py::arg("tokens"))
        .def_property_readonly("phase",
            [](const python_stages & s) { return s.phase() < 0 ? py::object(py::none()) : py::int_(s.phase()); })
        .def("insert", &insert, py::arg("chain"), py::arg("temperature"), py::arg("top_k"))
        .def("sample", &sample)
        .def("apply_row", &apply_row)
        .def("stats", &stats_dict)
        .def("events", &event_list)
        .def("reset_stats", &python_stages::reset_stats);
}
