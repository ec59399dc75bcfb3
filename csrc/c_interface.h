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

// thresholds: the gate file's. Throws bad_argument.
stage_options options_of(const lcg_params & params, std::vector<float> thresholds);

// Throws wrong_model.
void check_model(const lcg_gate & gate, const llama_model * model);

} // namespace lcg
