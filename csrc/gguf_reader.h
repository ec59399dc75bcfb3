// GGUF as data: bounded reads of keys, values and tensor descriptions. Nothing is allocated before its size has been
// checked against the bytes that are left; every error names the field, the value found and the value wanted.
#pragma once

#include "core.h"
#include "text.h"

#include <cstring>

namespace lcg {

enum gguf_type : uint32_t {
    gguf_u8,
    gguf_i8,
    gguf_u16,
    gguf_i16,
    gguf_u32,
    gguf_i32,
    gguf_f32,
    gguf_bool,
    gguf_string,
    gguf_array,
    gguf_u64,
    gguf_i64,
    gguf_f64,
    gguf_type_count
};

// Text in an error message: cut to a bearable length; a name goes in backquotes.
std::string shortened(const std::string & text);
std::string quoted(const std::string & name);

constexpr const char * base_model_hint = " (is this a base model? it goes to -m/--model)";

struct gguf_value {
    gguf_type  type;
    gguf_type  element; // of an array, else the type again
    meta_value value;
};

struct tensor_info {
    std::string           name;
    std::vector<uint64_t> shape; // ne[0] first
    uint32_t              type;
    uint64_t              offset; // from the start of the data section
};

class gguf_reader {
  public:
    gguf_reader(const uint8_t * data, size_t size, std::string source)
        : data_(data), size_(size), source_(std::move(source)) {}

    template <typename... T> [[noreturn]] void fail(const T &... message) const {
        throw gate_error(joined(source_, ": ", message...));
    }

    size_t          position() const { return position_; }
    size_t          size() const { return size_; }
    const uint8_t * bytes(size_t offset) const { return data_ + offset; }

    template <typename T> T number(const std::string & what) {
        need(sizeof(T), what);
        T value;
        std::memcpy(&value, data_ + position_, sizeof(T));
        position_ += sizeof(T);
        return value;
    }
    std::string string(const std::string & what, uint64_t max_length);
    gguf_value  value(const std::string & what);

    std::vector<tensor_info> tensor_infos(uint64_t n_tensors);

  private:
    void       need(uint64_t n, const std::string & what) const;
    meta_value integer(gguf_type type, const std::string & what);
    gguf_type  type(const std::string & what);
    meta_value scalar(gguf_type type, const std::string & what);
    meta_value array(gguf_type element, uint64_t n, const std::string & what);
    // The elements of an array whose scalars are read as T.
    template <typename T> meta_value elements(gguf_type element, uint64_t n, const std::string & what);

    const uint8_t * data_;
    size_t          size_;
    size_t          position_ = 0;
    std::string     source_;
};

// The keys of a file, with typed access that refuses what is missing or of another type.
class key_table {
  public:
    key_table(gguf_reader & in, uint64_t n_keys);

    const std::vector<std::pair<std::string, gguf_value>> & entries() const { return entries_; }
    const gguf_reader &                                     in() const { return in_; }

    template <typename... T> [[noreturn]] void fail(const std::string & key, const T &... message) const {
        in_.fail("key ", quoted(key), " ", message...);
    }

    const gguf_value *              find(const std::string & key) const;
    template <typename T> const T & get(const std::string & key, gguf_type type) const {
        return std::get<T>(typed(key, type, type).value);
    }
    template <typename T> const std::vector<T> & get_array(const std::string & key, gguf_type element) const {
        return std::get<std::vector<T>>(typed(key, gguf_array, element).value);
    }
    // A uint32 from low to high.
    uint32_t count(const std::string & key, uint32_t low, uint32_t high) const;
    void     expect(const std::string & key, const std::string & wanted, const std::string & hint) const;

  private:
    const gguf_value & typed(const std::string & key, gguf_type type, gguf_type element) const;

    const gguf_reader &                             in_;
    std::vector<std::pair<std::string, gguf_value>> entries_;
};

} // namespace lcg
