// What the files behind lcg.h share.
#pragma once

#include "c_host.h"
#include "core.h"
#include "lcg.h"
#include "pin.h"
#include "tap.h"

#include <new>

struct lcg_gate {
    std::shared_ptr<const lcg::gate> weights;
    std::string                      path;
};

struct lcg_pin {
    std::shared_ptr<const lcg::pin> letters; // null: every script may come
    size_t                          n_vocab;
};

struct lcg_phases {
    struct part {
        lcg::mark  begin, end;
        bool       leading;
        lcg_params params;
    };
    std::shared_ptr<const lcg::token_texts> texts;
    std::vector<part>                       parts;
};

struct lcg_tap {
    lcg::tap rows;
};

namespace lcg {

constexpr uint32_t max_events = 65536;

struct bad_argument : gate_error {
    using gate_error::gate_error;
};
struct wrong_model : gate_error {
    using gate_error::gate_error;
};

lcg_status report(lcg_error * error, lcg_status status, const char * message);

// Runs something that may throw, and returns what became of it.
template <typename F> lcg_status guarded(lcg_error * error, F run) {
    try {
        run();
        return report(error, LCG_OK, "");
    } catch (const no_host & e) {
        return report(error, LCG_ERROR_HOST, e.what());
    } catch (const bad_argument & e) {
        return report(error, LCG_ERROR_ARGUMENT, e.what());
    } catch (const wrong_model & e) {
        return report(error, LCG_ERROR_MODEL, e.what());
    } catch (const gate_error & e) {
        return report(error, LCG_ERROR_FILE, e.what());
    } catch (const std::bad_alloc &) {
        return report(error, LCG_ERROR_MEMORY, "no memory is left");
    } catch (const std::exception & e) {
        return report(error, LCG_ERROR_MEMORY, e.what());
    }
}

// What holds in one part of a reply. thresholds: the gate file's. Throws bad_argument.
conduct conduct_of(const lcg_params & params, family_thresholds thresholds);
// ... in all of it.
stage_options options_of(const lcg_params & params, const family_thresholds & thresholds);
// Whether some letters must not come out, so that the options act without a gate.
bool has_pin(const lcg_params & params);

// Parts of all kinds that models have a name for; false if nothing has this name.
bool add_named(lcg_phases & phases, std::string_view name, const lcg_params & params);

// Throws wrong_model.
void check_model(const lcg_gate & gate, const llama_model * model);

} // namespace lcg
