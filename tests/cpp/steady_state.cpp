// Counts heap allocations while tokens are sampled: after a warm-up there must be none, on every path. llama.cpp and
// ggml are replaced by functions that do the least that the stages can stand on.
#include "../../csrc/pin.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>

static size_t n_allocations = 0;

void * operator new(size_t size) {
    n_allocations++;
    void * memory = std::malloc(size);
    if (memory == nullptr) {
        throw std::bad_alloc();
    }
    return memory;
}
void operator delete(void * memory) noexcept {
    std::free(memory);
}
void operator delete(void * memory, size_t) noexcept {
    std::free(memory);
}

using namespace lcg;

namespace {

constexpr uint32_t n_vocab = 5000, n_families = 4;
constexpr int32_t  top_k = 40;

int             dummy;
float           z[n_families];
llama_sampler * shortlist;
llama_sampler * judge;

template <typename T> T * any() {
    return reinterpret_cast<T *>(&dummy);
}

const sampler_functions & functions_of(llama_sampler * sampler) {
    return *reinterpret_cast<sampler_functions *>(reinterpret_cast<sampler_object *>(sampler)->iface);
}

// A chain of shortlist, top-k, gate and a choice of the first candidate.
void apply_chain(llama_sampler *, llama_token_data_array * array) {
    auto * tokens = reinterpret_cast<token_data_array *>(array);
    functions_of(shortlist).apply(shortlist, tokens);
    tokens->size = std::min<size_t>(tokens->size, top_k);
    functions_of(judge).apply(judge, tokens);
    tokens->selected = 0;
}

void accept_token(llama_sampler *, int32_t token) {
    functions_of(judge).accept(judge, token);
}

void fake_host() {
    host.llama_sampler_init = [](llama_sampler_i * iface, void * ctx) {
        return reinterpret_cast<llama_sampler *>(new sampler_object{iface, ctx});
    };
    host.llama_sampler_apply        = apply_chain;
    host.llama_sampler_accept       = accept_token;
    host.ggml_init                  = [](tensor_context_params) { return any<ggml_context>(); };
    host.ggml_free                  = [](ggml_context *) {};
    host.ggml_tensor_overhead       = []() -> size_t { return 1; };
    host.ggml_graph_overhead_custom = [](size_t, bool) -> size_t { return 1; };
    host.ggml_new_tensor_2d         = [](ggml_context *, int32_t, int64_t, int64_t) { return any<ggml_tensor>(); };
    host.ggml_mul_mat               = [](ggml_context *, ggml_tensor *, ggml_tensor *) { return any<ggml_tensor>(); };
    host.ggml_set_input             = [](ggml_tensor *) {};
    host.ggml_set_output            = [](ggml_tensor *) {};
    host.ggml_new_graph_custom      = [](ggml_context *, size_t, bool) { return any<ggml_cgraph>(); };
    host.ggml_build_forward_expand  = [](ggml_cgraph *, ggml_tensor *) {};
    host.ggml_gallocr_new           = [](ggml_backend_buffer_type *) { return any<ggml_gallocr>(); };
    host.ggml_gallocr_alloc_graph   = [](ggml_gallocr *, ggml_cgraph *) { return true; };
    host.ggml_gallocr_free          = [](ggml_gallocr *) {};
    host.ggml_backend_buffer_free   = [](ggml_backend_buffer *) {};
    host.ggml_backend_tensor_set    = [](ggml_tensor *, const void *, size_t, size_t) {};
    host.ggml_backend_tensor_get    = [](const ggml_tensor *, void * out, size_t, size_t n) { std::memcpy(out, z, n); };
    host.ggml_backend_graph_compute = [](ggml_backend *, ggml_cgraph *) -> int32_t { return 0; };
    host.ggml_backend_supports_op   = [](ggml_backend *, const ggml_tensor *) { return true; };
    host.ggml_backend_free          = [](ggml_backend *) {};
    host.ggml_backend_load_all      = []() {};
    host.ggml_backend_dev_by_type   = [](int32_t) { return any<ggml_backend_device>(); };
    host.ggml_backend_dev_init      = [](ggml_backend_device *, const char *) { return any<ggml_backend>(); };
    host.ggml_backend_dev_buffer_type      = [](ggml_backend_device *) { return any<ggml_backend_buffer_type>(); };
    host.ggml_backend_dev_backend_reg      = [](ggml_backend_device *) { return any<ggml_backend_reg>(); };
    host.ggml_backend_dev_name             = [](ggml_backend_device *) { return "fake"; };
    host.ggml_backend_reg_get_proc_address = [](ggml_backend_reg *, const char *) -> void * { return nullptr; };
    host.ggml_backend_alloc_ctx_tensors_from_buft = [](ggml_context *, ggml_backend_buffer_type *) {
        return any<ggml_backend_buffer>();
    };
}

// Every fifth token is the first half of a letter: a character stays open now and then.
std::shared_ptr<const token_texts> make_texts() {
    auto texts = std::make_shared<token_texts>();
    for (uint32_t token = 0; token < n_vocab; token++) {
        const char * pieces[] = {"A", "B", "\xC3", "\x80", "\xBF"};
        texts->offset.push_back(static_cast<int64_t>(texts->bytes.size()));
        texts->bytes += pieces[token % 5];
    }
    texts->offset.push_back(static_cast<int64_t>(texts->bytes.size()));
    return texts;
}

// Letters of two families.
std::shared_ptr<const pin> make_pin() {
    auto table = std::make_shared<letter_table>();
    table->family.assign(n_code_points, 0);
    table->family['B'] = 1;
    for (uint32_t c = 0x80; c < 0x800; c++) {
        table->family[c] = c % 64 < 32;
    }
    table->neutral = 2;
    table->texts   = make_texts();
    table->free.resize(n_vocab);
    return std::make_shared<pin>(table, family_set(2), std::vector<uint32_t>());
}

// Phases of the same options, between AB and the token 7.
std::shared_ptr<const phase_set> make_phases(const conduct & options) {
    return std::make_shared<phase_set>(phase_set{make_texts(), {{{{'A', 'B'}, false}, {{7}, true}, false, options}}});
}

gate_file make_file() {
    gate_file file;
    file.config.n_embd     = n_families;
    file.config.n_vocab    = n_vocab;
    file.config.families   = {"cj", "latin", "symbols", "lowres"};
    file.config.maskable   = {1, 1, 0, 0};
    file.config.neutral    = 2;
    file.config.confidence = {{5, 0.999f}, {20, 0.95f}};
    for (uint32_t token = 0; token < n_vocab; token++) {
        file.weights.token_family.push_back(token % n_families);
    }
    file.weights.tensors.push_back({"lcg.fc2.weight", type_f32, {n_families, n_families}, std::vector<uint8_t>(64)});
    return file;
}

struct result {
    size_t      allocations;
    stage_stats stats;
};

result run(const std::shared_ptr<const gate> & model, const stage_options & options, const chain_facts & facts) {
    stage_pair s(model, options);
    shortlist = new_shortlist(s.shared());
    judge     = new_gate_stage(s.shared());
    std::mt19937                    random(1);
    std::normal_distribution<float> normal(0.0f, 3.0f);
    std::vector<float>              logits(n_vocab);
    const float                     hidden[n_families] = {};
    s.begin_reply(facts, false);
    size_t before = 0;
    for (int step = 0; step < 600; step++) {
        if (step == 300) {
            before = n_allocations;
        }
        for (float & logit : logits) {
            logit = normal(random);
        }
        for (float & value : z) {
            value = normal(random);
        }
        s.sample(any<llama_sampler>(), logits.data(), hidden);
    }
    const result r = {n_allocations - before, s.stats()};
    for (llama_sampler * stage : {shortlist, judge}) {
        functions_of(stage).free(stage);
        delete reinterpret_cast<sampler_object *>(stage);
    }
    return r;
}

} // namespace

int main() {
    fake_host();
    const auto               model = load_gate(make_file(), "cpu");
    const std::vector<float> thresholds(n_families, 0.5f);
    stage_options            options = {
        {gate_mode::mask, {{thresholds, thresholds, thresholds}, true, true, true}, INFINITY, nullptr}, 16, false,
        nullptr};
    chain_facts facts;
    facts.top_k = top_k;
    bool passed = true;
    for (const int turn : {0, 1, 2, 3}) {
        const bool direct    = turn % 2 == 0;
        options.usual.pinned = turn < 2 ? nullptr : make_pin();
        for (const float strength : {INFINITY, 2.0f}) {
            for (const bool eager : {false, true}) {
                facts.direct           = direct;
                options.usual.strength = strength;
                options.eager          = eager;
                const result r         = run(model, options, facts);
                std::printf(
                    "pin %d direct %d strength %g eager %d: %zu allocations in 300 steps, %llu interventions in 600\n",
                    options.usual.pinned != nullptr, direct, double(strength), eager, r.allocations,
                    static_cast<unsigned long long>(r.stats.interventions));
                passed = passed && r.allocations == 0 && r.stats.interventions > 100;
            }
        }
    }
    return passed ? 0 : 1;
}
