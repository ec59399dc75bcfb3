// The preload library: which gate belongs to which of the models in a process.
#include "preload.h"

#include "letters.h"
#include "text.h"
#include "vocab.h"

#include <algorithm>

namespace lcg {
namespace {

struct loaded_gate {
    lcg_gate               gate;  // without weights where a model has only a pin
    std::string            model; // that it was first used for
    std::shared_ptr<tally> total = std::make_shared<tally>();
};

// never destroyed: chains may be freed while the process ends
std::mutex & lock   = *new std::mutex;
auto &       gates  = *new std::vector<std::unique_ptr<loaded_gate>>;
auto &       models = *new std::vector<std::unique_ptr<known_model>>;

std::string meta(const llama_model * model, const char * key) {
    char value[256];
    return host.llama_model_meta_val_str(model, key, value, sizeof value) < 0 ? "" : value;
}

std::string name_of(const llama_model * model) {
    const std::string name = meta(model, "general.name"), architecture = meta(model, "general.architecture");
    return name.empty() ? "a model of architecture " + architecture : joined(name, " (", architecture, ")");
}

// A model's tokenizer is that of a gated one: it drafts for it.
bool drafts_for(const llama_model * model) {
    const llama_vocab * vocab = host.llama_model_get_vocab(model);
    return std::any_of(gates.begin(), gates.end(), [&](const auto & loaded) {
        return !loaded->model.empty() && has_tokenizer_hash(vocab, loaded->gate.weights->config.tokenizer_hash);
    });
}

// The settings, with what belongs to the model: its pin, and the phases of its replies.
stage_options options_for(const llama_model * model, size_t n_vocab, const family_thresholds & thresholds) {
    const llama_vocab * vocab  = host.llama_model_get_vocab(model);
    lcg_params          params = settings().params;
    const lcg_pin       pin{pin_of(vocab, settings().allow, settings().deny), n_vocab};
    params.pin = &pin;
    lcg_phases phases;
    if (settings().has_phases()) {
        phases.texts = texts_of(vocab);
        if (settings().thinking) {
            lcg_params thoughts = params;
            thoughts.mode       = *settings().thinking;
            add_named(phases, "thinking", thoughts);
        }
        lcg_params off = lcg_params_default();
        off.mode       = LCG_MODE_OFF;
        for (const std::string & part : settings().alone) {
            add_named(phases, part, off);
        }
        params.phases = &phases;
    }
    return options_of(params, thresholds);
}

void use(loaded_gate & loaded, known_model & model) {
    loaded.model        = model.name;
    model.fitting       = loaded.gate.weights;
    model.options       = options_for(model.address, model.n_vocab, model.fitting->config.thresholds);
    model.options.total = loaded.total;
}

void choose_gate(known_model & model) {
    std::string why;
    for (const auto & loaded : gates) {
        if (loaded->gate.path.empty()) {
            continue;
        }
        try {
            check_model(loaded->gate, model.address);
            return use(*loaded, model);
        } catch (const wrong_model & error) {
            why = why.empty() ? error.what() : joined(why, "; ", error.what());
        }
    }
    if (!settings().gates.empty() && !drafts_for(model.address)) {
        tell_ungated(joined(model.name, ": is not gated: ", why.empty() ? "no gate could be loaded" : why));
    }
    if (settings().has_pin()) { // which acts on every model
        gates.push_back(std::make_unique<loaded_gate>(loaded_gate{{no_gate(model.n_vocab), ""}, ""}));
        use(*gates.back(), model);
    }
}

} // namespace

void load_gates() {
    for (const std::string & path : settings().gates) {
        lcg_error        error;
        const lcg_gate * loaded = lcg_gate_load(path.c_str(), settings().device.c_str(), &error);
        if (loaded == nullptr) {
            tell_ungated(error.message);
            continue;
        }
        gates.push_back(std::make_unique<loaded_gate>(loaded_gate{*loaded, ""}));
        delete loaded;
    }
}

bool may_want(size_t n_embd) {
    return std::any_of(
        gates.begin(), gates.end(), [&](const auto & loaded) { return loaded->gate.weights->config.n_embd == n_embd; });
}

known_model & model_of(const llama_model * address) {
    const std::lock_guard<std::mutex> guard(lock);
    const llama_vocab *               vocab   = host.llama_model_get_vocab(address);
    const auto                        n_vocab = static_cast<size_t>(host.llama_vocab_n_tokens(vocab));
    const auto                        found =
        std::find_if(models.begin(), models.end(), [&](const auto & m) { return m->address == address; });
    // another one may have been loaded to the same address
    if (found != models.end() && (*found)->n_vocab == n_vocab && (*found)->name == name_of(address)) {
        return **found;
    }
    auto model     = std::make_unique<known_model>();
    model->address = address;
    model->n_vocab = n_vocab;
    model->name    = name_of(address);
    choose_gate(*model);
    if (found != models.end()) {
        (*found)->address = nullptr; // kept: another thread may be sampling
    }
    models.push_back(std::move(model));
    return *models.back();
}

std::vector<gate_report> gate_reports() {
    const std::lock_guard<std::mutex> guard(lock);
    std::vector<gate_report>          reports;
    for (const auto & loaded : gates) {
        reports.push_back({loaded->gate.path, loaded->model, loaded->total->total()});
    }
    return reports;
}

} // namespace lcg
