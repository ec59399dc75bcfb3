#pragma once

#include "core.h"

namespace lcg {

struct no_host : gate_error {
    using gate_error::gate_error;
};

// Fills `host`, once; throws no_host where llama.cpp lacks a function, or its structures are not those of host_api.h.
// library: what dlopen calls the library of llama.cpp, and those it needs; null: the whole process.
void connect_host(void * library = nullptr);

} // namespace lcg
