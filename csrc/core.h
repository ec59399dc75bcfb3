// The Language Confusion Gate (arXiv 2510.17555): a small MLP on the model's last hidden state that says which token
// families may come next, and the rules by which its answer masks candidates in llama.cpp's sampling chain.
#pragma once

#include "host_api.h"

#include <bitset>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace lcg {

struct gate_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

constexpr size_t max_families = 127;
using family_set              = std::bitset<max_families + 1>;
constexpr int no_family       = -1;

// For each family, the probability from which it is predicted.
struct family_thresholds {
    std::vector<float>         usual;
    std::vector<float>         first; // before a reply's first language token
    std::vector<float>         allow; // from which it may come, predicted or not; empty: only if it is
    const std::vector<float> & after(int last) const { return last == no_family ? first : usual; }
};

// ---- gate file (gate_file.cpp) ----

// One of the sets whose union is H: at most top_k tokens, each with less than top_p of probability above it.
struct confidence_set {
    uint32_t top_k;
    float    top_p;
};

// A token that goes with a ban on another family than its own.
struct masked_token {
    uint32_t token;
    uint8_t  family;
};

struct gate_config {
    std::string                 architecture; // of the base model
    std::string                 rules;
    std::string                 tokenizer_hash;
    std::string                 fingerprint; // of the base model's weights; older gates have none
    uint32_t                    n_embd   = 0;
    uint32_t                    n_hidden = 0; // 0: linear gate
    uint32_t                    n_vocab  = 0;
    std::vector<std::string>    families;
    std::vector<uint8_t>        maskable; // per family
    uint32_t                    neutral = 0;
    family_thresholds           thresholds;
    std::vector<confidence_set> confidence;
    std::vector<uint32_t>       exempt_tokens;
    std::vector<masked_token>   masked_as;
};

struct host_tensor {
    std::string          name;
    tensor_type          type  = type_f32;
    int64_t              ne[2] = {0, 1}; // row length, number of rows
    std::vector<uint8_t> data;
};

// As ggml names it ("F16"); the number of a type that no gate has.
std::string tensor_type_name(uint32_t type);

struct gate_weights {
    std::vector<host_tensor> tensors;      // lcg.fc1.*, lcg.fc2.*
    std::vector<uint8_t>     token_family; // [n_vocab], exemptions not applied
};

using meta_value = std::variant<bool, int64_t, uint64_t, double, std::string, std::vector<bool>, std::vector<int64_t>,
    std::vector<uint64_t>, std::vector<double>, std::vector<std::string>>;

struct gate_file {
    gate_config                                     config;
    gate_weights                                    weights;
    std::vector<std::pair<std::string, meta_value>> metadata; // in file order
};

class key_table; // gguf_reader.h

// The keys of a gate file; throws gate_error for one that is missing or cannot be (gate_config.cpp).
gate_config read_config(const key_table & keys);

// Validates every byte that is used; throws gate_error that starts with `source`.
gate_file parse_gate_file(const uint8_t * data, size_t size, const std::string & source);

// ---- gate (gate.cpp) ----

struct device_weights; // the tensors on a ggml backend
struct label_rule;     // labels.h

// Immutable and shared: any number of evaluators and contexts use one gate. With neither weights nor a label rule it
// has no families and never acts.
struct gate {
    gate_config                           config;
    family_set                            maskable;
    std::vector<uint8_t>                  token_family; // [n_vocab], as used while decoding: exemptions applied
    std::vector<uint8_t>                  masked_as;    // [n_vocab], the family whose ban removes it; mostly its own
    std::string                           device;       // ggml's name of the device that holds the weights
    std::shared_ptr<const device_weights> weights;
    std::shared_ptr<const label_rule>     labels; // training-free: P is the label of the step's own logits

    bool acts() const { return weights || labels; }
};

// device: "cpu", "gpu" or "auto" (a GPU that supports the gate's operations, or else the CPU).
std::shared_ptr<const gate> load_gate(const gate_file & file, const std::string & device);
// What stands in a chain that has only a pin.
std::shared_ptr<const gate> no_gate(size_t n_vocab);

// A compute graph for a fixed number of columns. Not shared between threads.
class evaluator {
  public:
    evaluator(std::shared_ptr<const gate> gate, size_t n_columns);
    ~evaluator();

    static bool supported(const std::shared_ptr<const gate> & gate);

    // hidden [n_columns, n_embd] -> z [n_columns, n_families]
    void run(const float * hidden, float * z);

  private:
    struct graph;
    std::unique_ptr<graph> graph_;
};

// ---- decoding rules (policy.cpp): pure functions of candidates, z and history ----

struct gate_rules {
    family_thresholds thresholds;
    bool              persistence            = true;  // needs an earlier language token; its family stays allowed
    bool              confidence             = true;  // the model itself must find an allowed family plausible
    bool              first_token            = false; // act before the first language token as well
    float             confidence_temperature = 0.0f;  // H is taken at the request's temperature, at none below this
};

// Two sets of families of the tokens in H: their own, and those whose ban removes them.
struct confident_families {
    family_set own, masked_as;
};

enum class verdict { intervene, no_history, nothing_banned, not_confident, would_empty };

// What z says: P, and the families that may come, which holds P.
struct prediction {
    family_set predicted, allowed;
};

struct ruling {
    verdict    outcome = verdict::no_history;
    family_set predicted, allowed, banned;
};

// The m largest of n logits, largest first, equal ones by index; false if one of them is NaN or +inf.
bool select_top(const float * logits, size_t n, size_t m, std::vector<uint32_t> & best);

bool               may_act(const gate_rules & rules, int last);
family_set         allowed_families(const gate_rules & rules, family_set by_gate, int last); // A
family_set         families_of(const token_data * tokens, size_t n, const uint8_t * token_family);
confident_families families_in_h(const gate & gate, const token_data * tokens, size_t n);
prediction         predict_families(const float * z, const family_thresholds & thresholds, int last); // z [n_families]

// The rules (paper, section 3.3). survivors: the families whose ban removes the tokens in S; confident is asked for
// only where it matters.
ruling rule(const gate_rules & rules, float strength, const family_set & maskable, const prediction & by_gate, int last,
    const family_set & survivors, const std::function<confident_families()> & confident);

// Sum of exp((logit - max)/T) over all candidates.
double softmax_sum(const float * logits, size_t n, float max_logit, float temperature);
double softmax_sum(const double * logits, size_t n, double max_logit); // T = 1

// How many of the best tokens (sorted, most probable first) are in H = the union of the confidence sets.
size_t confident_count(
    const token_data * best, size_t n_best, const std::vector<confidence_set> & sets, float temperature, double sum);

// How many of them are in S = what top-k and then top-p leave; llama.cpp applies both before the temperature.
size_t survivor_count(const token_data * best, size_t n_best, size_t top_k, float top_p);

// (S ∪ H) less the banned families (or with `strength` subtracted from their logits), sorted.
void apply_ban(const token_data_array & survivors, const token_data * confident, size_t n_confident,
    const family_set & banned, const uint8_t * masked_as, float strength, std::vector<token_data> & out);

struct decision : ruling {
    std::vector<token_data> candidates;
};

// All rules on explicit data, nothing lazy. logits: all candidates C; survivors: S, a part of C.
decision decide(const gate & gate, const gate_rules & rules, float strength, const std::vector<token_data> & candidates,
    const std::vector<token_data> & survivors, const float * z, int last, float temperature);

// ---- the two stages in llama.cpp's sampling chain (sampler.cpp) ----

enum class gate_mode { mask, observe, off };
enum class chain_end { draw, greedy, mirostat };

class pin;        // pin.h
struct phase_set; // phases.h
struct tally;     // stage_pair.h

// How the stages act, in the whole of a reply or in one phase of it.
struct conduct {
    gate_mode                  mode = gate_mode::mask;
    gate_rules                 rules;
    float                      strength = 0.0f; // +inf: mask
    std::shared_ptr<const pin> pinned;          // null: every script may come
};

struct stage_options {
    conduct                          usual; // where no phase is open
    size_t                           n_events = 0;
    bool                             eager    = false;     // run the MLP at every step
    std::shared_ptr<const phase_set> phases;               // null: there are none
    bool                             only_sampled = false; // accepted tokens that were not sampled are of no reply
    std::shared_ptr<tally>           total;                // null: nobody adds the statistics up
};

// What the stages must know of the chain they stand in.
struct chain_facts {
    float           temperature = 1.0f;
    int32_t         top_k       = 0; // <= 0: off
    chain_end       end         = chain_end::draw;
    bool            direct      = false;   // nothing before the shortlist changes a logit
    llama_sampler * mirostat    = nullptr; // its truncation is probed: S is what it would leave
};

struct stage_stats {
    uint64_t steps          = 0; // tokens sampled
    uint64_t gate_runs      = 0; // steps on which the MLP was evaluated
    uint64_t interventions  = 0;
    uint64_t observed       = 0; // of these, in mode `observe`
    uint64_t not_confident  = 0; // bans that the confidence rule stopped
    uint64_t without_hidden = 0; // steps on which the gate was wanted and no hidden state was there
    uint64_t pin_yields     = 0; // steps on which the pin left no token, so it was not applied
    double   removed_mass   = 0; // probability removed, summed over interventions
    double   gate_seconds   = 0; // spent in the MLP

    stage_stats & operator+=(const stage_stats & other);
};

struct gate_event {
    uint64_t                reply    = 0;
    uint64_t                position = 0; // of the generated token in its reply
    int                     last     = no_family;
    bool                    observed = false; // mode `observe`: nothing was removed
    family_set              predicted, allowed, banned;
    std::vector<float>      z;
    std::vector<token_data> removed; // banned tokens that S held, with p, most probable first
    std::vector<token_data> left;    // what was sampled from, likewise; p is what it was before the intervention
    int32_t                 chosen = -1;
};

class stage_pair;

// State that the two stages of one chain share; it outlives the chains that are built around it.
class stage_pair {
  public:
    struct state;

    stage_pair(std::shared_ptr<const gate> gate, const stage_options & options);
    explicit stage_pair(std::shared_ptr<state> state) : state_(std::move(state)) {}
    ~stage_pair();

    void set_options(const stage_options & options);
    void begin_reply(const chain_facts & facts, bool continued);
    void read_prompt(const std::vector<int32_t> & tokens); // its end; before the first step, for the phases
    int  phase() const;                                    // index of the open one, -1: none

    // Runs the chain on one row and returns what it leaves; `selected` is set if the chain ends in a choice.
    token_data_array apply(llama_sampler * chain, const float * logits, const float * hidden, bool direct);
    // ... and accepts the selected token.
    int32_t sample(llama_sampler * chain, const float * logits, const float * hidden);

    stage_stats             stats() const;
    std::vector<gate_event> events() const;
    void                    reset_stats();

    const std::shared_ptr<state> & shared() const { return state_; }

  private:
    std::shared_ptr<state> state_;
};

using shared_state = std::shared_ptr<stage_pair::state>;

constexpr char gate_stage_name[] = "lcg-gate"; // as llama_sampler_name has it

llama_sampler *      new_shortlist(const shared_state & state);
llama_sampler *      new_gate_stage(const shared_state & state);
const shared_state & state_in(const llama_sampler * stage); // of one of the two
bool                 is_gate_stage(const llama_sampler * part);
bool                 is_shortlist(const llama_sampler * part);

// ---- their places in a chain (chain.cpp) ----

// Where the stages stand in a chain, and what they know of it.
struct placement {
    size_t      shortlist, gate; // indices in the chain that has both
    chain_facts facts;
};

// Puts the shortlist before the first sampler that truncates or chooses, the gate behind top-k, typical and top-p,
// where the logits are not yet divided by the temperature. The chain owns the stages from then on. Temperature and
// top-k are those of the request; where they are not given, the chain's samplers are asked by applying them to a few
// tokens. Throws gate_error, and leaves the chain alone, if nothing in it chooses.
placement insert_stages(
    llama_sampler * chain, const shared_state & state, std::optional<float> temperature, std::optional<int32_t> top_k);

} // namespace lcg
