// lcg.h: phases, the parts of a reply that have parameters of their own.
#include "c_interface.h"
#include "text.h"
#include "vocab.h"

#include <algorithm>

using namespace lcg;

namespace {

constexpr size_t max_mark = 256; // bytes

void check(const lcg_phases * phases, const lcg_params & params) {
    if (phases == nullptr) {
        throw bad_argument("`phases` is NULL");
    }
    if (params.phases != nullptr) {
        throw bad_argument("`params` has phases of its own, expected none");
    }
    if (params.pin != nullptr && params.pin->n_vocab != phases->texts->n_vocab()) {
        throw bad_argument(joined(
            "`pin` was made for a model of ", params.pin->n_vocab, " tokens, this one has ", phases->texts->n_vocab()));
    }
    conduct_of(params, {});
}

} // namespace

bool lcg::has_pin(const lcg_params & params) {
    return params.pin != nullptr ||
           (params.phases != nullptr && std::any_of(params.phases->parts.begin(), params.phases->parts.end(),
                                            [](const auto & part) { return part.params.pin != nullptr; }));
}

bool lcg::add_named(lcg_phases & phases, std::string_view name, const lcg_params & params) {
    const auto & all   = all_named_marks();
    const auto   found = std::find_if(all.begin(), all.end(), [&](const auto & named) { return named.name == name; });
    if (found == all.end()) {
        return false;
    }
    for (const auto & [begin, end] : found->pairs) {
        phases.parts.push_back({mark(begin), mark(end), found->leading, params});
    }
    return true;
}

lcg_phases * lcg_phases_init(const llama_model * model, lcg_error * error) {
    lcg_phases * made = nullptr;
    guarded(error, [&] {
        if (model == nullptr) {
            throw bad_argument("`model` is NULL");
        }
        connect_host();
        made = new lcg_phases{texts_of(host.llama_model_get_vocab(model)), {}};
    });
    return made;
}

void lcg_phases_free(lcg_phases * phases) {
    delete phases;
}

lcg_status lcg_phases_add(lcg_phases * phases, const char * name, lcg_params params, lcg_error * error) {
    return guarded(error, [&] {
        check(phases, params);
        const std::string wanted = name != nullptr ? name : "NULL";
        if (!add_named(*phases, wanted, params)) {
            throw bad_argument(joined("`name` is ", wanted, ", expected thinking, code or tool_calls"));
        }
    });
}

lcg_status lcg_phases_add_marks(
    lcg_phases * phases, const char * begin, const char * end, bool leading, lcg_params params, lcg_error * error) {
    return guarded(error, [&] {
        check(phases, params);
        const std::string_view first = begin != nullptr ? begin : "", last = end != nullptr ? end : "";
        for (const auto & [name, text] : {std::pair("begin", first), std::pair("end", last)}) {
            if (text.size() > max_mark) {
                throw bad_argument(joined("`", name, "` has ", text.size(), " bytes, expected at most ", max_mark));
            }
        }
        if (first.empty() && last.empty()) {
            throw bad_argument(
                "`begin` and `end` are empty, expected a mark that begins the phase or one that ends it");
        }
        phases->parts.push_back({mark(first), mark(last), leading, params});
    });
}
