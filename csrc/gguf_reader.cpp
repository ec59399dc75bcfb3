#include "gguf_reader.h"

#include <algorithm>
#include <set>

namespace lcg {
namespace {

constexpr uint64_t max_key_length    = 256;
constexpr uint64_t max_string_length = 1 << 20;
constexpr uint64_t max_array_length  = 1 << 20;

const char * const type_names[gguf_type_count] = {"uint8", "int8", "uint16", "int16", "uint32", "int32", "float32",
    "bool", "string", "array", "uint64", "int64", "float64"};
// What an element takes at least: a string has 8 bytes of length.
const size_t type_sizes[gguf_type_count] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};

// Well-formed UTF-8 (no overlong forms, no surrogates, nothing above U+10FFFF).
bool is_utf8(const std::string & text) {
    for (size_t i = 0; i < text.size();) {
        const auto   byte = [&](size_t k) { return i + k < text.size() ? static_cast<uint8_t>(text[i + k]) : 0u; };
        const auto   lead = byte(0);
        const size_t n    = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
        if (n == 0) {
            return false;
        }
        for (size_t k = 1; k < n; k++) {
            if ((byte(k) & 0xc0) != 0x80) {
                return false;
            }
        }
        if ((lead == 0xe0 && byte(1) < 0xa0) || (lead == 0xed && byte(1) > 0x9f) || (lead == 0xf0 && byte(1) < 0x90) ||
            (lead == 0xf4 && byte(1) > 0x8f)) {
            return false;
        }
        i += n;
    }
    return true;
}

bool is_signed(gguf_type type) {
    return type == gguf_i8 || type == gguf_i16 || type == gguf_i32 || type == gguf_i64;
}

std::string type_text(gguf_type type, gguf_type element) {
    return type == gguf_array ? std::string("array of ") + type_names[element] : std::string(type_names[type]);
}

} // namespace

std::string shortened(const std::string & text) {
    size_t n = std::min<size_t>(text.size(), 64);
    while (n > 0 && n < text.size() && (static_cast<uint8_t>(text[n]) & 0xc0) == 0x80) { // not inside a character
        n--;
    }
    return text.substr(0, n);
}

std::string quoted(const std::string & name) {
    return "`" + shortened(name) + "`";
}

// ---- gguf_reader ----

void gguf_reader::need(uint64_t n, const std::string & what) const {
    const uint64_t left = size_ - position_;
    if (n > left) {
        fail("file ends inside ", what, ": ", left, " bytes are left, ", n, " are needed");
    }
}

std::string gguf_reader::string(const std::string & what, uint64_t max_length) {
    const auto length = number<uint64_t>(what);
    if (length > max_length) {
        fail(what, " has length ", length, ", at most ", max_length, " is allowed");
    }
    need(length, what);
    std::string value(reinterpret_cast<const char *>(data_ + position_), length);
    if (!is_utf8(value)) {
        fail(what, " is not UTF-8");
    }
    position_ += length;
    return value;
}

gguf_type gguf_reader::type(const std::string & what) {
    const auto value = number<uint32_t>(what);
    if (value >= gguf_type_count) {
        fail(what, " has unknown type ", value);
    }
    return static_cast<gguf_type>(value);
}

// A number of any width, as Python's integers have none.
meta_value gguf_reader::integer(gguf_type type, const std::string & what) {
    const size_t size = type_sizes[type];
    need(size, what);
    uint64_t bits = 0;
    std::memcpy(&bits, data_ + position_, size);
    position_ += size;
    if (!is_signed(type)) {
        return bits;
    }
    const size_t unused = 64 - 8 * size;
    return static_cast<int64_t>(bits << unused) >> unused;
}

meta_value gguf_reader::scalar(gguf_type type, const std::string & what) {
    switch (type) {
    case gguf_bool: {
        const auto value = number<uint8_t>(what);
        if (value > 1) {
            fail(what, " is ", value, ", a bool is 0 or 1");
        }
        return value != 0;
    }
    case gguf_string:
        return string(what, max_string_length);
    case gguf_f32:
        return static_cast<double>(number<float>(what));
    case gguf_f64:
        return number<double>(what);
    default:
        return integer(type, what);
    }
}

template <typename T> meta_value gguf_reader::elements(gguf_type element, uint64_t n, const std::string & what) {
    std::vector<T> values;
    values.reserve(n);
    for (uint64_t i = 0; i < n; i++) {
        values.push_back(std::get<T>(scalar(element, what)));
    }
    return values;
}

meta_value gguf_reader::array(gguf_type element, uint64_t n, const std::string & what) {
    need(n * type_sizes[element], what);
    switch (element) {
    case gguf_bool:
        return elements<bool>(element, n, what);
    case gguf_string:
        return elements<std::string>(element, n, what);
    case gguf_f32:
    case gguf_f64:
        return elements<double>(element, n, what);
    default:
        return is_signed(element) ? elements<int64_t>(element, n, what) : elements<uint64_t>(element, n, what);
    }
}

gguf_value gguf_reader::value(const std::string & what) {
    const gguf_type outer = type(what);
    if (outer != gguf_array) {
        return {outer, outer, scalar(outer, what)};
    }
    const gguf_type element = type(what);
    if (element == gguf_array) {
        fail(what, " is an array of arrays, which no gate file has");
    }
    const auto n = number<uint64_t>(what);
    if (n > max_array_length) {
        fail(what, " has ", n, " elements, at most ", max_array_length, " are allowed");
    }
    return {outer, element, array(element, n, what)};
}

std::vector<tensor_info> gguf_reader::tensor_infos(uint64_t n_tensors) {
    std::vector<tensor_info> infos;
    std::set<std::string>    seen;
    for (uint64_t i = 0; i < n_tensors; i++) {
        tensor_info info;
        info.name         = string(joined("the name of tensor ", i), max_key_length);
        const auto what   = "tensor " + quoted(info.name);
        const auto n_dims = number<uint32_t>(what);
        if (n_dims < 1 || n_dims > 4) {
            fail(what, " has ", n_dims, " dimensions, expected 1 to 4");
        }
        for (uint32_t d = 0; d < n_dims; d++) {
            info.shape.push_back(number<uint64_t>(what));
        }
        info.type   = number<uint32_t>(what);
        info.offset = number<uint64_t>(what);
        if (!seen.insert(info.name).second) {
            fail(what, " occurs twice");
        }
        infos.push_back(std::move(info));
    }
    return infos;
}

// ---- key_table ----

key_table::key_table(gguf_reader & in, uint64_t n_keys) : in_(in) {
    std::set<std::string> seen;
    for (uint64_t i = 0; i < n_keys; i++) {
        const std::string key = in.string(joined("the name of key ", i), max_key_length);
        if (!seen.insert(key).second) {
            fail(key, "occurs twice");
        }
        entries_.emplace_back(key, in.value("key " + quoted(key)));
        if (key == "general.type") { // told at once, before a base model's vocabulary runs into a limit
            expect(key, "adapter", base_model_hint);
        }
    }
}

const gguf_value * key_table::find(const std::string & key) const {
    const auto it =
        std::find_if(entries_.begin(), entries_.end(), [&](const auto & entry) { return entry.first == key; });
    return it == entries_.end() ? nullptr : &it->second;
}

const gguf_value & key_table::typed(const std::string & key, gguf_type type, gguf_type element) const {
    const gguf_value * found = find(key);
    if (found == nullptr) {
        fail(key, "is missing");
    }
    if (found->type != type || found->element != element) {
        fail(key, "has type ", type_text(found->type, found->element), ", expected ", type_text(type, element));
    }
    return *found;
}

uint32_t key_table::count(const std::string & key, uint32_t low, uint32_t high) const {
    const uint64_t value = get<uint64_t>(key, gguf_u32);
    if (value < low || value > high) {
        fail(key, "is ", value, ", expected ", low, " to ", high);
    }
    return static_cast<uint32_t>(value);
}

void key_table::expect(const std::string & key, const std::string & wanted, const std::string & hint) const {
    const std::string & found = get<std::string>(key, gguf_string);
    if (found != wanted) {
        fail(key, "is \"", shortened(found), "\", expected \"", wanted, "\"", hint);
    }
}

} // namespace lcg
