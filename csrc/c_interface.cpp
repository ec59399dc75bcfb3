// lcg.h: gates, taps and parameters. Nothing may be thrown across this boundary.
#include "c_interface.h"

#include "c_host.h"
#include "letters.h"
#include "text.h"
#include "vocab.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <new>

using namespace lcg;

namespace lcg {

lcg_status report(lcg_error * error, lcg_status status, const char * message) {
    if (error != nullptr) {
        error->status = status;
        std::strncpy(error->message, message, sizeof error->message - 1);
        error->message[sizeof error->message - 1] = '\0';
    }
    return status;
}

conduct conduct_of(const lcg_params & params, family_thresholds thresholds) {
    if (params.mode < LCG_MODE_MASK || params.mode > LCG_MODE_OFF) {
        throw bad_argument(joined("`mode` is ", static_cast<int>(params.mode), ", expected one of lcg_mode"));
    }
    if (!(params.strength >= 0)) {
        throw bad_argument(joined("`strength` is ", params.strength, ", expected logits from 0 to INFINITY"));
    }
    if (!(params.threshold >= 0 && params.threshold < 1)) {
        throw bad_argument(joined(
            "`threshold` is ", params.threshold, ", expected 0 (as the gate file says) or a probability below 1"));
    }
    if (!(params.confidence_temperature >= 0 && std::isfinite(params.confidence_temperature))) {
        throw bad_argument(
            joined("`confidence_temperature` is ", params.confidence_temperature, ", expected a number from 0"));
    }
    if (params.threshold > 0) {
        for (std::vector<float> * values : {&thresholds.usual, &thresholds.first}) {
            values->assign(values->size(), params.threshold);
        }
        thresholds.allow.clear();
    }
    conduct found;
    found.mode     = params.mode == LCG_MODE_MASK      ? gate_mode::mask
                     : params.mode == LCG_MODE_OBSERVE ? gate_mode::observe
                                                       : gate_mode::off;
    found.rules    = {std::move(thresholds), params.persistence, params.confidence, params.first_token,
        params.confidence_temperature};
    found.strength = params.strength;
    found.pinned   = params.pin != nullptr ? params.pin->letters : nullptr;
    return found;
}

stage_options options_of(const lcg_params & params, const family_thresholds & thresholds) {
    if (params.n_events > max_events) {
        throw bad_argument(joined("`n_events` is ", params.n_events, ", expected at most ", max_events));
    }
    stage_options options;
    options.usual        = conduct_of(params, thresholds);
    options.n_events     = params.n_events;
    options.only_sampled = true;
    if (params.phases != nullptr) {
        std::vector<phase> phases;
        for (const lcg_phases::part & part : params.phases->parts) {
            phases.push_back({part.begin, part.end, part.leading, conduct_of(part.params, thresholds)});
        }
        options.phases = std::make_shared<phase_set>(params.phases->texts, std::move(phases));
    }
    return options;
}

namespace {

std::vector<uint8_t> read_file(const std::string & path) {
    constexpr std::streamoff max_size = std::streamoff(2) << 30;
    std::ifstream            file(path, std::ios::binary | std::ios::ate);
    const std::streamoff     size = file ? std::streamoff(file.tellg()) : -1;
    if (size < 0) {
        throw gate_error(joined(path, ": cannot be read: ", std::strerror(errno)));
    }
    if (size > max_size) {
        throw gate_error(joined(path, ": has ", size, " bytes, a gate file has at most ", max_size));
    }
    std::vector<uint8_t> bytes(static_cast<size_t>(size));
    file.seekg(0);
    if (size > 0 && !file.read(reinterpret_cast<char *>(bytes.data()), size)) {
        throw gate_error(joined(path, ": cannot be read to its end"));
    }
    return bytes;
}

} // namespace

void check_model(const lcg_gate & gate, const llama_model * model) {
    const gate_config & config = gate.weights->config;
    const llama_vocab * vocab  = host.llama_model_get_vocab(model);
    char                architecture[128];
    if (host.llama_model_meta_val_str(model, "general.architecture", architecture, sizeof architecture) < 0) {
        architecture[0] = '\0';
    }
    const auto refuse = [&](const char * what, const auto & wanted, const auto & found) {
        throw wrong_model(joined(gate.path, ": was made for ", what, " ", wanted, ", the model has ", found,
            "; a gate fits only the model it was trained on"));
    };
    if (config.architecture != architecture) {
        refuse("architecture", config.architecture, architecture);
    }
    const auto n_embd = static_cast<int32_t>(config.n_embd);
    if (host.llama_model_n_embd(model) != n_embd && host.llama_model_n_embd_out(model) != n_embd) {
        refuse("n_embd", n_embd, host.llama_model_n_embd(model));
    }
    if (host.llama_vocab_n_tokens(vocab) != static_cast<int32_t>(config.n_vocab)) {
        refuse("n_vocab", config.n_vocab, host.llama_vocab_n_tokens(vocab));
    }
    if (!has_tokenizer_hash(vocab, config.tokenizer_hash)) {
        refuse("a model", "with another tokenizer", "its own");
    }
}

} // namespace lcg

const char * lcg_version(void) {
    return LCG_VERSION;
}

lcg_params lcg_params_default(void) {
    return {LCG_MODE_MASK, INFINITY, 0.0f, 0.7f, true, true, true, 256, nullptr, nullptr};
}

lcg_gate * lcg_gate_load(const char * path, const char * device, lcg_error * error) {
    lcg_gate * loaded = nullptr;
    guarded(error, [&] {
        if (path == nullptr || device == nullptr) {
            throw bad_argument(joined("`", path == nullptr ? "path" : "device", "` is NULL"));
        }
        if (const std::string d = device; d != "cpu" && d != "gpu" && d != "auto") {
            throw bad_argument(joined("`device` is ", d, ", expected cpu, gpu or auto"));
        }
        connect_host();
        const std::vector<uint8_t> bytes = read_file(path);
        loaded = new lcg_gate{load_gate(parse_gate_file(bytes.data(), bytes.size(), path), device), path};
    });
    return loaded;
}

void lcg_gate_free(lcg_gate * gate) {
    delete gate;
}

int32_t lcg_gate_n_families(const lcg_gate * gate) {
    return gate == nullptr ? 0 : static_cast<int32_t>(gate->weights->config.families.size());
}

const char * lcg_gate_family(const lcg_gate * gate, int32_t family) {
    const bool is_there = family >= 0 && family < lcg_gate_n_families(gate);
    return is_there ? gate->weights->config.families[static_cast<size_t>(family)].c_str() : nullptr;
}

lcg_status lcg_gate_check(const lcg_gate * gate, const llama_model * model, lcg_error * error) {
    return guarded(error, [&] {
        if (gate == nullptr || model == nullptr) {
            throw bad_argument(joined("`", gate == nullptr ? "gate" : "model", "` is NULL"));
        }
        check_model(*gate, model);
    });
}

lcg_pin * lcg_pin_init(const llama_model * model, const char * allow, const char * deny, lcg_error * error) {
    lcg_pin * made = nullptr;
    guarded(error, [&] {
        if (model == nullptr) {
            throw bad_argument("`model` is NULL");
        }
        connect_host();
        const llama_vocab * vocab = host.llama_model_get_vocab(model);
        try {
            made = new lcg_pin{pin_of(vocab, allow != nullptr ? allow : "", deny != nullptr ? deny : ""),
                static_cast<size_t>(host.llama_vocab_n_tokens(vocab))};
        } catch (const gate_error & e) {
            throw bad_argument(e.what());
        }
    });
    return made;
}

void lcg_pin_free(lcg_pin * pin) {
    delete pin;
}

lcg_tap * lcg_tap_init(uint32_t n_rows) {
    auto * made = new (std::nothrow) lcg_tap{tap(std::max<size_t>(n_rows, 1), true)};
    if (made != nullptr) {
        made->rows.active = true;
    }
    return made;
}

void lcg_tap_free(lcg_tap * tap) {
    delete tap;
}

bool lcg_tap_eval(ggml_tensor * tensor, bool ask, void * data) {
    if (data == nullptr || host.ggml_get_name == nullptr) { // no gate was loaded, so nobody asks
        return !ask;
    }
    return tap::on_tensor(tensor, ask, &static_cast<lcg_tap *>(data)->rows);
}
