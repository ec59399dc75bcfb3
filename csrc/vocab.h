#pragma once

#include "host_api.h"

#include <string>

namespace lcg {

// What the engine writes for a token, control tokens too (llama_token_to_piece).
std::string token_bytes(const llama_vocab * vocab, int32_t token);

// Whether a gate's tokenizer hash is of this vocabulary, in either version.
bool has_tokenizer_hash(const llama_vocab * vocab, const std::string & hash);

} // namespace lcg
