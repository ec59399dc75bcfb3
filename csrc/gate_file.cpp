// Strict reader of gate files: bytes in, a validated configuration and weights out, or an error that names the field,
// the value found and the value wanted.
#include "gguf_reader.h"

#include <algorithm>
#include <set>

namespace lcg {
namespace {

constexpr uint32_t gguf_magic       = 0x46554747; // "GGUF"
constexpr uint64_t max_keys         = 1024;
constexpr uint64_t max_tensors      = 5;
constexpr uint32_t max_embd         = 1 << 16;
constexpr uint32_t max_vocab        = 1 << 22;
constexpr uint32_t max_confidence_k = 1024;

// ---- keys ----

std::vector<confidence_set> read_confidence(const key_table & keys) {
    const auto & top_k = keys.get_array<uint64_t>("adapter.lcg.confidence.top_k", gguf_u32);
    const auto & top_p = keys.get_array<double>("adapter.lcg.confidence.top_p", gguf_f32);
    if (top_k.empty() || top_k.size() > 8 || top_k.size() != top_p.size()) {
        keys.in().fail("keys `adapter.lcg.confidence.top_k` and `.top_p` have ", top_k.size(), " and ", top_p.size(),
            " elements, expected the same number from 1 to 8");
    }
    std::vector<confidence_set> sets;
    for (size_t i = 0; i < top_k.size(); i++) {
        if (top_k[i] < 1 || top_k[i] > max_confidence_k) {
            keys.fail("adapter.lcg.confidence.top_k", "holds ", top_k[i], ", expected 1 to ", max_confidence_k);
        }
        if (!(top_p[i] > 0.0 && top_p[i] <= 1.0)) {
            keys.fail("adapter.lcg.confidence.top_p", "holds ", top_p[i], ", expected more than 0 and at most 1");
        }
        sets.push_back({static_cast<uint32_t>(top_k[i]), static_cast<float>(top_p[i])});
    }
    return sets;
}

void read_families(const key_table & keys, gate_config & config) {
    config.families = keys.get_array<std::string>("adapter.lcg.families", gguf_string);
    const size_t n  = config.families.size();
    if (n < 2 || n > max_families) {
        keys.fail("adapter.lcg.families", "has ", n, " elements, expected 2 to ", max_families);
    }
    if (std::set<std::string>(config.families.begin(), config.families.end()).size() != n) {
        keys.fail("adapter.lcg.families", "names a family twice");
    }
    const auto & maskable = keys.get_array<bool>("adapter.lcg.maskable", gguf_bool);
    if (maskable.size() != n) {
        keys.fail("adapter.lcg.maskable", "has ", maskable.size(), " elements, expected ", n, ", one for each family");
    }
    config.maskable.assign(maskable.begin(), maskable.end());
    config.neutral = keys.count("adapter.lcg.neutral", 0, static_cast<uint32_t>(n) - 1);
    if (config.maskable[config.neutral]) {
        keys.fail("adapter.lcg.maskable", "says that the neutral family `", config.families[config.neutral],
            "` may be masked");
    }
}

void check_probability(const key_table & keys, const char * key, const char * verb, double value) {
    const auto stored = static_cast<float>(value);
    if (!(stored > 0.0f && stored < 1.0f)) {
        keys.fail(key, verb, stored, ", expected a probability between 0 and 1");
    }
}

// An array of them, or `otherwise` where the file has none.
std::vector<float> read_threshold_array(
    const key_table & keys, const char * name, size_t n_families, const std::vector<float> & otherwise) {
    if (keys.find(name) == nullptr) {
        return otherwise;
    }
    std::vector<float> thresholds;
    for (const double threshold : keys.get_array<double>(name, gguf_f32)) {
        check_probability(keys, name, "holds ", threshold);
        thresholds.push_back(static_cast<float>(threshold));
    }
    if (thresholds.size() != n_families) {
        keys.fail(name, "has ", thresholds.size(), " elements, expected ", n_families, ", one for each family");
    }
    return thresholds;
}

family_thresholds read_thresholds(const key_table & keys, size_t n_families) {
    const double common = keys.get<double>("adapter.lcg.threshold", gguf_f32);
    check_probability(keys, "adapter.lcg.threshold", "is ", common);
    const std::vector<float> all(n_families, static_cast<float>(common));
    family_thresholds        found;
    found.usual = read_threshold_array(keys, "adapter.lcg.thresholds", n_families, all);
    found.first = read_threshold_array(keys, "adapter.lcg.first_thresholds", n_families, found.usual);
    return found;
}

gate_config read_config(const key_table & keys) {
    gate_config config;
    keys.count("adapter.lcg.version", 1, 1);
    config.architecture   = keys.get<std::string>("general.architecture", gguf_string);
    config.rules          = keys.get<std::string>("adapter.lcg.rules", gguf_string);
    config.tokenizer_hash = keys.get<std::string>("adapter.lcg.tokenizer_hash", gguf_string);
    if (keys.find("adapter.lcg.fingerprint") != nullptr) {
        config.fingerprint = keys.get<std::string>("adapter.lcg.fingerprint", gguf_string);
    }
    config.n_embd   = keys.count("adapter.lcg.n_embd", 1, max_embd);
    config.n_hidden = keys.count("adapter.lcg.n_hidden", 0, max_embd);
    config.n_vocab  = keys.count("adapter.lcg.n_vocab", 1, max_vocab);
    read_families(keys, config);
    config.thresholds = read_thresholds(keys, config.families.size());
    config.confidence = read_confidence(keys);
    if (keys.find("adapter.lcg.exempt_tokens") != nullptr) { // writers leave empty arrays out
        for (const uint64_t token : keys.get_array<uint64_t>("adapter.lcg.exempt_tokens", gguf_u32)) {
            if (token >= config.n_vocab) {
                keys.fail("adapter.lcg.exempt_tokens", "holds token ", token, ", the vocabulary has ", config.n_vocab);
            }
            config.exempt_tokens.push_back(static_cast<uint32_t>(token));
        }
    }
    return config;
}

// ---- tensors ----

std::string shape_text(const std::vector<uint64_t> & shape) {
    std::string text = "(";
    for (size_t i = 0; i < shape.size(); i++) {
        text += (i ? ", " : "") + std::to_string(shape[i]);
    }
    return text + ")";
}

// What a gate of this configuration must hold, in shapes of ne[0] first.
struct wanted_tensor {
    std::string           name;
    std::vector<uint64_t> shape;
    std::vector<uint32_t> types;
    bool                  optional;
};

std::vector<wanted_tensor> wanted_tensors(const gate_config & config) {
    const std::vector<uint32_t> matrix     = {type_f32, type_f16, type_bf16, type_q8_0};
    const uint64_t              n_families = config.families.size();
    std::vector<wanted_tensor>  wanted     = {{"lcg.token_family", {config.n_vocab}, {type_i8}, false}};
    if (config.n_hidden > 0) {
        wanted.push_back({"lcg.fc1.weight", {config.n_embd, config.n_hidden}, matrix, false});
        wanted.push_back({"lcg.fc1.bias", {config.n_hidden}, {type_f32}, true});
    }
    const uint64_t n_in = config.n_hidden > 0 ? config.n_hidden : config.n_embd;
    wanted.push_back({"lcg.fc2.weight", {n_in, n_families}, matrix, false});
    wanted.push_back({"lcg.fc2.bias", {n_families}, {type_f32}, true});
    return wanted;
}

// How ggml stores a type: rows are made of blocks; a number is NaN or Inf if all bits of its exponent are set.
struct stored_type {
    uint32_t     type;
    const char * name;
    uint64_t     block_values, block_bytes;
    uint64_t     exponent_at; // where the 16 bits are that hold the exponent, from the start of a block
    uint16_t     exponent;    // which of them; 0: every value is finite
};

constexpr stored_type stored_types[] = {
    {type_f32, "F32", 1, 4, 2, 0x7f80},
    {type_f16, "F16", 1, 2, 0, 0x7c00},
    {type_bf16, "BF16", 1, 2, 0, 0x7f80},
    {type_q8_0, "Q8_0", 32, 34, 0, 0x7c00}, // an F16 scale and 32 int8
    {type_i8, "I8", 1, 1, 0, 0},
};

const stored_type * find_type(uint32_t type) {
    for (const stored_type & stored : stored_types) {
        if (stored.type == type) {
            return &stored;
        }
    }
    return nullptr;
}

bool all_finite(const stored_type & stored, const uint8_t * data, uint64_t size) {
    bool finite = true;
    for (uint64_t i = 0; stored.exponent != 0 && i < size; i += stored.block_bytes) {
        uint16_t bits;
        std::memcpy(&bits, data + i + stored.exponent_at, 2);
        finite = finite && (bits & stored.exponent) != stored.exponent;
    }
    return finite;
}

struct data_section {
    size_t   start;
    uint64_t alignment;
};

struct span {
    uint64_t    begin, end;
    std::string name;
};

span check_tensor(
    const gguf_reader & in, const tensor_info & info, const wanted_tensor & wanted, const data_section & data) {
    const auto what = "tensor " + quoted(info.name);
    if (std::find(wanted.types.begin(), wanted.types.end(), info.type) == wanted.types.end()) {
        std::string list;
        for (const uint32_t type : wanted.types) {
            list += (list.empty() ? "" : ", ") + tensor_type_name(type);
        }
        in.fail(what, " has type ", tensor_type_name(info.type), ", expected ", list);
    }
    if (info.shape != wanted.shape) {
        in.fail(what, " has shape ", shape_text(info.shape), ", expected ", shape_text(wanted.shape));
    }
    const stored_type & stored = *find_type(info.type);
    if (info.shape[0] % stored.block_values != 0) {
        in.fail(what, " is ", stored.name, " with rows of ", info.shape[0], " values, expected a multiple of ",
            stored.block_values);
    }
    // shapes are capped by the configuration's limits, so these products cannot overflow
    const uint64_t n_rows = info.shape.size() > 1 ? info.shape[1] : 1;
    const uint64_t size   = info.shape[0] / stored.block_values * stored.block_bytes * n_rows;
    const uint64_t room   = in.size() - data.start;
    if (info.offset % data.alignment != 0) {
        in.fail(what, " has offset ", info.offset, ", expected a multiple of ", data.alignment);
    }
    if (info.offset > room || size > room - info.offset) {
        in.fail(what, " leaves the file: offset ", info.offset, ", ", size, " bytes, the data section has ", room);
    }
    if (!all_finite(stored, in.bytes(data.start + info.offset), size)) {
        in.fail(what, " holds NaN or Inf");
    }
    return {info.offset, info.offset + size, info.name};
}

void check_no_overlap(const gguf_reader & in, std::vector<span> spans) {
    std::sort(spans.begin(), spans.end(), [](const span & a, const span & b) { return a.begin < b.begin; });
    for (size_t i = 1; i < spans.size(); i++) {
        if (spans[i].begin < spans[i - 1].end) {
            in.fail("tensors ", quoted(spans[i - 1].name), " and ", quoted(spans[i].name), " overlap");
        }
    }
}

gate_weights read_weights(const gguf_reader & in, const gate_config & config, const std::vector<tensor_info> & infos,
    const data_section & data) {
    const auto        wanted = wanted_tensors(config);
    std::vector<span> spans;
    gate_weights      weights;
    for (const tensor_info & info : infos) {
        const auto it =
            std::find_if(wanted.begin(), wanted.end(), [&](const wanted_tensor & w) { return w.name == info.name; });
        if (it == wanted.end()) {
            in.fail("tensor ", quoted(info.name), " does not belong into a gate file",
                info.name.rfind("lcg.fc1.", 0) == 0 ? " with `adapter.lcg.n_hidden` 0" : "");
        }
        const span s = check_tensor(in, info, *it, data);
        spans.push_back(s);
        const uint8_t *      begin = in.bytes(data.start + s.begin);
        std::vector<uint8_t> bytes(begin, begin + (s.end - s.begin));
        if (info.name == "lcg.token_family") {
            weights.token_family = std::move(bytes);
        } else {
            const auto n_rows = static_cast<int64_t>(info.shape.size() > 1 ? info.shape[1] : 1);
            weights.tensors.push_back({info.name, static_cast<tensor_type>(info.type),
                {static_cast<int64_t>(info.shape[0]), n_rows}, std::move(bytes)});
        }
    }
    for (const wanted_tensor & w : wanted) {
        const bool found =
            std::any_of(infos.begin(), infos.end(), [&](const tensor_info & info) { return info.name == w.name; });
        if (!found && !w.optional) {
            in.fail("tensor ", quoted(w.name), " is missing");
        }
    }
    check_no_overlap(in, std::move(spans));
    for (size_t token = 0; token < weights.token_family.size(); token++) {
        if (weights.token_family[token] >= config.families.size()) {
            in.fail("tensor `lcg.token_family` gives token ", token, " the family ",
                static_cast<int8_t>(weights.token_family[token]), ", expected 0 to ", config.families.size() - 1);
        }
    }
    return weights;
}

data_section find_data(const gguf_reader & in, const key_table & keys) {
    uint64_t alignment = 32;
    if (keys.find("general.alignment") != nullptr) {
        alignment = keys.count("general.alignment", 1, 4096);
        if ((alignment & (alignment - 1)) != 0) {
            keys.fail("general.alignment", "is ", alignment, ", expected a power of two");
        }
    }
    const uint64_t start = (in.position() + alignment - 1) / alignment * alignment;
    if (start > in.size()) {
        in.fail("file ends before its data section");
    }
    return {static_cast<size_t>(start), alignment};
}

} // namespace

std::string tensor_type_name(uint32_t type) {
    const stored_type * stored = find_type(type);
    return stored != nullptr ? stored->name : std::to_string(type);
}

gate_file parse_gate_file(const uint8_t * data, size_t size, const std::string & source) {
    gguf_reader in(data, size, source);
    const auto  magic = in.number<uint32_t>("the magic number");
    if (magic != gguf_magic) {
        in.fail("not a GGUF file: it does not begin with the letters GGUF");
    }
    const auto version = in.number<uint32_t>("the GGUF version");
    if (version != 3) {
        in.fail("GGUF version ", version, ", expected 3 (little-endian)");
    }
    const auto n_tensors = in.number<uint64_t>("the number of tensors");
    const auto n_keys    = in.number<uint64_t>("the number of keys");
    if (n_keys > max_keys) {
        in.fail("number of keys is ", n_keys, ", at most ", max_keys, " are allowed");
    }
    const key_table keys(in, n_keys);
    if (keys.find("general.type") == nullptr) {
        keys.fail("general.type", "is missing", base_model_hint);
    }
    keys.expect("adapter.type", "lcg", " (another kind of adapter)");
    if (n_tensors > max_tensors) {
        in.fail("number of tensors is ", n_tensors, ", a gate has at most ", max_tensors);
    }
    gate_file file;
    file.config      = read_config(keys);
    const auto infos = in.tensor_infos(n_tensors);
    file.weights     = read_weights(in, file.config, infos, find_data(in, keys));
    for (const auto & entry : keys.entries()) {
        file.metadata.emplace_back(entry.first, entry.second.value);
    }
    return file;
}

} // namespace lcg
