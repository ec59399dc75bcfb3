// The preload library: the history of a reply in programs that do not accept what they sample, as node-llama-cpp, which
// also builds its chains anew in the middle of a reply. A token was taken if it is what the context decodes next.
#include "preload.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>

namespace lcg {
namespace {

struct choice {
    place        at;
    int32_t      token = -1;
    shared_state stages; // of the chain that chose
};

struct decoding {
    std::vector<place>                   outputs; // of the newest batch, in the order of its rows of logits
    std::unordered_map<int32_t, int32_t> ends;    // newest positions, by sequence
    std::unordered_map<int32_t, choice>  choices; // newest, by sequence
};

// never destroyed: contexts may be freed while the process ends
std::mutex & lock      = *new std::mutex;
auto &       decodings = *new std::unordered_map<llama_context *, decoding>;

choice * choice_at(const place & at) {
    const auto found = decodings.find(at.context);
    if (found == decodings.end()) {
        return nullptr;
    }
    const auto chosen = found->second.choices.find(at.sequence);
    return chosen != found->second.choices.end() ? &chosen->second : nullptr;
}

bool goes_on(const choice * chosen, const place & at) {
    return chosen != nullptr && at.sequence >= 0 && chosen->token == at.token && chosen->at.position + 1 == at.position;
}

// Another row has another one, for all that matters here.
uint64_t mark_of(const float * row, size_t n_vocab) {
    uint64_t mark = 0;
    for (size_t i = 0; i < n_vocab; i += std::max<size_t>(n_vocab / 16, 1)) {
        uint32_t bits;
        std::memcpy(&bits, &row[i], sizeof bits);
        mark = (mark ^ bits) * 0x100000001b3;
    }
    return mark;
}

} // namespace

void note_batch(llama_context * context, const token_batch * batch) {
    const std::lock_guard<std::mutex> guard(lock);
    decoding &                        known = decodings[context];
    known.outputs.clear();
    if (batch == nullptr || batch->token == nullptr) {
        return;
    }
    for (int32_t i = 0; i < batch->n_tokens; i++) {
        const int32_t sequence = batch->seq_id != nullptr ? batch->seq_id[i][0] : 0;
        int32_t &     end      = known.ends.try_emplace(sequence, -1).first->second;
        end                    = batch->pos != nullptr ? batch->pos[i] : end + 1;
        if (batch->logits != nullptr ? batch->logits[i] != 0 : i == batch->n_tokens - 1) {
            known.outputs.push_back({context, sequence, end, batch->token[i]});
        }
    }
}

void drop_context(llama_context * context) {
    const std::lock_guard<std::mutex> guard(lock);
    decodings.erase(context);
}

place place_of(llama_context * context, const float * first, const float * row, size_t n_vocab) {
    const auto                        output = static_cast<size_t>(row - first) / n_vocab;
    const std::lock_guard<std::mutex> guard(lock);
    const auto                        found    = decodings.find(context);
    const bool                        is_known = found != decodings.end() && output < found->second.outputs.size();
    place                             at       = is_known ? found->second.outputs[output] : place{context};
    at.mark                                    = mark_of(row, n_vocab);
    return at;
}

void note_choice(const place & at, int32_t token, const shared_state & stages) {
    const std::lock_guard<std::mutex> guard(lock);
    decodings[at.context].choices[at.sequence] = {at, token, stages};
}

shared_state stages_before(const place & at, const gate * model) {
    const std::lock_guard<std::mutex> guard(lock);
    const choice *                    chosen = choice_at(at);
    const bool is_ours = goes_on(chosen, at) && chosen->stages->sampled && chosen->stages->model.get() == model;
    return is_ours ? chosen->stages : nullptr;
}

bool catch_up(stage_pair::state & stages, const place & at) {
    if (!stages.sampled) { // it was accepted
        return true;
    }
    const std::lock_guard<std::mutex> guard(lock);
    const choice *                    chosen = choice_at(at);
    if (chosen != nullptr && chosen->at.mark == at.mark) { // the same row is sampled once more
        return true;
    }
    if (goes_on(chosen, at)) {
        stages.on_accept(at.token);
    } else {
        stages.forget(); // another reply
    }
    return at.sequence >= 0;
}

} // namespace lcg
