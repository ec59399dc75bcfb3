#pragma once

#include "core.h"

namespace lcg {

struct no_host : gate_error {
    using gate_error::gate_error;
};

// Fills `host`, once; throws no_host where llama.cpp lacks a function.
void connect_host();

} // namespace lcg
