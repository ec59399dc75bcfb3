// The preload library: what the environment asks for, lines on stderr, statistics at the end and on SIGUSR1.
#include "preload.h"

#include "letters.h"
#include "text.h"

#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <unistd.h>

namespace lcg {
namespace {

[[noreturn]] void stop() {
    std::fflush(nullptr);
    std::_Exit(2);
}

std::string variable(const char * name) {
    const char * value = std::getenv(name);
    return value != nullptr ? value : "";
}

std::vector<std::string> split(const std::string & text, char separator) {
    std::vector<std::string> parts;
    for (size_t begin = 0, end; begin <= text.size(); begin = end + 1) {
        end = std::min(text.find(separator, begin), text.size());
        if (end > begin) {
            parts.push_back(text.substr(begin, end - begin));
        }
    }
    return parts;
}

[[noreturn]] void refuse(const char * name, const std::string & value, const char * expected) {
    tell(joined("`", name, "` is ", value, ", expected ", expected));
    stop();
}

// None where the variable is not set.
std::optional<lcg_mode> mode_in(const char * name) {
    const std::pair<const char *, lcg_mode> modes[] = {
        {"mask", LCG_MODE_MASK}, {"observe", LCG_MODE_OBSERVE}, {"off", LCG_MODE_OFF}};
    const std::string value = variable(name);
    for (const auto & [text, mode] : modes) {
        if (value == text) {
            return mode;
        }
    }
    if (!value.empty()) {
        refuse(name, value, "mask, observe or off");
    }
    return std::nullopt;
}

std::vector<std::string> parts_in(const char * name) {
    const std::vector<std::string> parts = split(variable(name), ',');
    for (const std::string & part : parts) {
        if (part != "code" && part != "tool_calls") {
            refuse(name, variable(name), "code, tool_calls, or both with a comma");
        }
    }
    return parts;
}

float strength_named(const std::string & text) {
    char *      end   = nullptr;
    const float value = text.empty() ? INFINITY : std::strtof(text.c_str(), &end);
    if (!text.empty() && (*end != '\0' || !(value >= 0))) {
        refuse("LCG_STRENGTH", text, "logits from 0 to inf");
    }
    return value;
}

// What is wrong here was written by a person for this very program, so it ends.
preload_settings read_settings() {
    preload_settings s;
    s.gates = split(variable("LCG_GATE"), ':');
    s.allow = variable("LCG_ALLOW");
    s.deny  = variable("LCG_DENY");
    if (!s.wants_anything()) {
        return s;
    }
    try {
        denied_families(s.allow, s.deny);
    } catch (const gate_error & error) {
        tell(joined("LCG_ALLOW, LCG_DENY: ", error.what()));
        stop();
    }
    if (!s.gates.empty() && s.gates[0] == "auto") {
        refuse("LCG_GATE", "auto", "the path of a gate; `lcg-cpp wrap --lcg auto` finds it");
    }
    s.params.mode     = mode_in("LCG_MODE").value_or(LCG_MODE_MASK);
    s.params.strength = strength_named(variable("LCG_STRENGTH"));
    s.params.n_events = 0;
    s.thinking        = mode_in("LCG_WHILE_THINKING");
    s.alone           = parts_in("LCG_LEAVE_ALONE");
    s.device          = variable("LCG_DEVICE").empty() ? "cpu" : variable("LCG_DEVICE");
    s.stats           = variable("LCG_STATS");
    s.is_strict       = !variable("LCG_STRICT").empty() && variable("LCG_STRICT") != "0";
    return s;
}

// ---- statistics ----

std::string in_words(const gate_report & r) {
    if (r.model.empty()) {
        return joined(r.path, ": was not used");
    }
    if (r.path.empty()) {
        return joined(r.model, ": ", r.stats.steps, " tokens, no gate");
    }
    return joined(r.model, ": ", r.stats.steps, " tokens, ", r.stats.gate_runs, " gate runs, ", r.stats.interventions,
        " interventions", r.stats.observed > 0 ? joined(" (", r.stats.observed, " only observed)") : "",
        r.stats.without_hidden > 0 ? joined(", ", r.stats.without_hidden, " steps without a hidden state") : "");
}

std::string quoted(const std::string & text) {
    std::string json = "\"";
    for (const char c : text) {
        if (static_cast<unsigned char>(c) < 0x20) {
            json += ' ';
            continue;
        }
        json += c == '"' || c == '\\' ? std::string("\\") + c : std::string(1, c);
    }
    return json + '"';
}

std::string as_json(const gate_report & r) {
    const stage_stats & s = r.stats;
    return joined("{\"pid\": ", getpid(), ", \"gate\": ", quoted(r.path), ", \"model\": ", quoted(r.model),
        ", \"steps\": ", s.steps, ", \"gate_runs\": ", s.gate_runs, ", \"interventions\": ", s.interventions,
        ", \"observed\": ", s.observed, ", \"not_confident\": ", s.not_confident,
        ", \"without_hidden\": ", s.without_hidden, ", \"removed_mass\": ", s.removed_mass,
        ", \"gate_seconds\": ", s.gate_seconds, ", \"pin_yields\": ", s.pin_yields, "}");
}

void report() {
    const std::string & to   = settings().stats;
    std::FILE *         file = to == "-" ? nullptr : std::fopen(to.c_str(), "a");
    if (to != "-" && file == nullptr) {
        tell(joined("LCG_STATS: ", to, ": cannot be written: ", std::strerror(errno)));
    }
    for (const gate_report & r : gate_reports()) {
        if (file != nullptr) {
            std::fprintf(file, "%s\n", as_json(r).c_str());
        } else {
            tell(in_words(r));
        }
    }
    if (file != nullptr) {
        std::fclose(file);
    }
}

int report_wanted[2]; // a pipe: a signal handler may do hardly more than write

void on_signal(int) {
    const int  before  = errno;
    const char nothing = 0;
    if (write(report_wanted[1], &nothing, 1) != 1) {
        // so many reports are wanted already that the pipe is full
    }
    errno = before;
}

void report_when_wanted() {
    char nothing;
    while (read(report_wanted[0], &nothing, 1) != 0) {
        report();
    }
}

std::atomic<bool> has_told{false}; // that something is not gated

// Runs when the process ends: the one that `lcg-cpp wrap` became says if llama.cpp never called.
void tell_if_unreached() {
    if (!is_connected() && !has_told && variable("LCG_WRAPPED") == std::to_string(getpid())) {
        tell_ungated("nothing was gated: this process never made a context of a llama.cpp that is a shared library");
    }
}

__attribute__((constructor)) void on_load() {
    if (!variable("LCG_GATE").empty() || !variable("LCG_ALLOW").empty() || !variable("LCG_DENY").empty()) {
        std::atexit(tell_if_unreached);
    }
}

} // namespace

const preload_settings & settings() {
    static const preload_settings read = read_settings();
    return read;
}

void tell(const std::string & line) {
    std::fprintf(stderr, "lcg: %s\n", line.c_str());
}

void tell_ungated(const std::string & line) {
    tell(line);
    has_told = true;
    if (settings().is_strict) {
        stop();
    }
}

void start_reports() {
    if (settings().stats.empty()) {
        return;
    }
    std::atexit(report);
    struct sigaction before{};
    if (sigaction(SIGUSR1, nullptr, &before) != 0 || before.sa_handler != SIG_DFL || pipe(report_wanted) != 0) {
        return; // the program has a use for the signal
    }
    std::thread(report_when_wanted).detach();
    struct sigaction action{};
    action.sa_handler = on_signal;
    action.sa_flags   = SA_RESTART;
    sigaction(SIGUSR1, &action, nullptr);
}

} // namespace lcg
