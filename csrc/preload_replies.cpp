// The preload library: the history of a reply in programs that do not accept what they sample, as node-llama-cpp, which
// also builds its chains anew in the middle of a reply. A token was taken if it is what the context decodes next.
#include "preload.h"

#include <unordered_map>

namespace lcg {
namespace {

struct choice {
    int32_t      position = -1; // of the token before
    int32_t      token    = -1;
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
    if (found == decodings.end() || at.sequence < 0) {
        return nullptr;
    }
    const auto chosen = found->second.choices.find(at.sequence);
    return chosen != found->second.choices.end() ? &chosen->second : nullptr;
}

bool goes_on(const choice * chosen, const place & at) {
    return chosen != nullptr && chosen->token == at.token && chosen->position + 1 == at.position;
}

} // namespace

void note_batch(llama_context * context, const token_batch & batch) {
    const std::lock_guard<std::mutex> guard(lock);
    decoding &                        known = decodings[context];
    known.outputs.clear();
    for (int32_t i = 0; i < batch.n_tokens && batch.token != nullptr; i++) {
        const int32_t sequence = batch.seq_id != nullptr ? batch.seq_id[i][0] : 0;
        int32_t &     end      = known.ends.try_emplace(sequence, -1).first->second;
        end                    = batch.pos != nullptr ? batch.pos[i] : end + 1;
        if (batch.logits != nullptr ? batch.logits[i] != 0 : i == batch.n_tokens - 1) {
            known.outputs.push_back({context, sequence, end, batch.token[i]});
        }
    }
}

void drop_context(llama_context * context) {
    const std::lock_guard<std::mutex> guard(lock);
    decodings.erase(context);
}

place place_of(llama_context * context, size_t output) {
    const std::lock_guard<std::mutex> guard(lock);
    const auto                        found = decodings.find(context);
    const bool is_known = found != decodings.end() && output < found->second.outputs.size();
    return is_known ? found->second.outputs[output] : place{context};
}

void note_choice(const place & at, int32_t token, const shared_state & stages) {
    if (at.sequence >= 0) {
        const std::lock_guard<std::mutex> guard(lock);
        decodings[at.context].choices[at.sequence] = {at.position, token, stages};
    }
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
    if (goes_on(chosen, at)) {
        stages.on_accept(at.token);
    } else if (chosen == nullptr || chosen->position != at.position) { // else the same row is sampled once more
        stages.forget();                                               // another reply
    }
    return at.sequence >= 0;
}

} // namespace lcg
