#pragma once

#include "phases.h"

namespace lcg {

// What the engine writes for a token, control tokens too (llama_token_to_piece).
std::string token_bytes(const llama_vocab * vocab, int32_t token);

// What all its tokens write.
std::shared_ptr<const token_texts> texts_of(const llama_vocab * vocab);

// Whether a gate's tokenizer hash is of this vocabulary, in either version.
bool has_tokenizer_hash(const llama_vocab * vocab, const std::string & hash);

} // namespace lcg
