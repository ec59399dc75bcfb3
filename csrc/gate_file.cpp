// Strict reader of gate files: bytes in, a validated configuration and weights out, or an error that names the field,
// the value found and the value wanted.
#include "gguf_reader.h"

#include <algorithm>

namespace lcg {
namespace {

constexpr uint32_t gguf_magic  = 0x46554747; // "GGUF"
constexpr uint64_t max_keys    = 1024;
constexpr uint64_t max_tensors = 5;

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
