// The letters of the rule set `scripts` (scripts.py), for pins.
#pragma once

#include "pin.h"

#include <string_view>

namespace lcg {

// [n_code_points]: the family of each character, an index into the names of families; `unassigned` where there is none.
const std::vector<uint8_t> & character_families();

uint8_t neutral_family();

// The families that must not come out: those outside `allow` unless it is empty, and those in `deny`. Both are names of
// families or groups of them, with commas between. Throws gate_error that names the list.
family_set denied_families(std::string_view allow, std::string_view deny);

// The pin of a model. Throws gate_error; null if every script may come.
std::shared_ptr<const pin> pin_of(const llama_vocab * vocab, std::string_view allow, std::string_view deny);

} // namespace lcg
