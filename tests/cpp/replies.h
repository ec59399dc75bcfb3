// What the programs of the tests share: prompts from the command line, and replies side by side.
#pragma once

#include <llama.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

using tokens_t = std::vector<llama_token>;

constexpr int n_predict = 24;

[[noreturn]] inline void stop(const std::string & message) {
    std::fprintf(stderr, "%s\n", message.c_str());
    std::exit(1);
}

inline void require(bool holds, const char * what) {
    if (!holds) {
        stop(std::string("does not hold: ") + what);
    }
}

inline tokens_t parse(const char * text) {
    tokens_t tokens;
    for (const char * at = text; *at != '\0'; at += *at == ',') {
        char * end = nullptr;
        tokens.push_back(static_cast<llama_token>(std::strtol(at, &end, 10)));
        at = end;
    }
    return tokens;
}

// All replies at once: a sequence and a sampler for each. `sample` takes a sampler, the context and a row of its
// logits; `print` a sampler and its reply.
template <typename New, typename Sample, typename Print>
void in_slots(
    llama_context * context, const std::vector<tokens_t> & prompts, New new_sampler, Sample sample, Print print) {
    const size_t                 n = prompts.size();
    std::vector<llama_sampler *> samplers;
    std::vector<tokens_t>        replies(n);
    std::vector<int32_t>         row(n);
    llama_batch                  batch = llama_batch_init(512, 0, 1);
    const auto                   add   = [&](llama_token token, size_t slot, size_t position, bool wants_logits) {
        const int32_t i    = batch.n_tokens++;
        batch.token[i]     = token;
        batch.pos[i]       = static_cast<llama_pos>(position);
        batch.n_seq_id[i]  = 1;
        batch.seq_id[i][0] = static_cast<llama_seq_id>(slot);
        batch.logits[i]    = wants_logits;
        row[slot]          = i;
    };
    for (size_t slot = 0; slot < n; slot++) {
        samplers.push_back(new_sampler());
        for (size_t i = 0; i < prompts[slot].size(); i++) {
            add(prompts[slot][i], slot, i, i + 1 == prompts[slot].size());
        }
    }
    for (size_t step = 0; step < n_predict; step++) {
        require(llama_decode(context, batch) == 0, "a batch of all slots");
        for (size_t i = n; i > 0; i--) { // in another order than that of the rows
            replies[i - 1].push_back(sample(samplers[i - 1], context, row[i - 1]));
        }
        batch.n_tokens = 0;
        for (size_t slot = 0; slot < n; slot++) {
            add(replies[slot].back(), slot, prompts[slot].size() + step, true);
        }
    }
    for (size_t slot = 0; slot < n; slot++) {
        print(samplers[slot], replies[slot]);
        llama_sampler_free(samplers[slot]);
    }
    llama_batch_free(batch);
}
