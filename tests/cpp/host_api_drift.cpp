// Compares csrc/host_api.h with the headers that llama-cpp-python installs. It has to compile, nothing more:
//
//   c++ -std=c++17 -fsyntax-only -I<site-packages>/include -Icsrc tests/cpp/host_api_drift.cpp
#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"
#include "host_api.h"
#include "llama.h"

#include <type_traits>

namespace lcg {

// ---- functions: the same types, but enums are int32_t and ggml_init_params is our copy of it ----

template <typename Ours, typename Theirs> constexpr bool compare_types() {
    if constexpr (std::is_enum_v<Theirs>) {
        return std::is_same_v<Ours, int32_t> && sizeof(Theirs) == sizeof(int32_t);
    } else if constexpr (std::is_same_v<Theirs, ggml_init_params>) {
        return std::is_same_v<Ours, tensor_context_params>;
    } else {
        return std::is_same_v<Ours, Theirs>;
    }
}

template <typename Ours, typename Theirs> struct same_function : std::false_type {};

template <typename OurResult, typename TheirResult, typename... Ours, typename... Theirs>
struct same_function<OurResult (*)(Ours...), TheirResult (*)(Theirs...)> {
    template <typename... T> struct list {};

    template <typename A, typename B> struct same_list : std::false_type {};
    template <typename... A, typename... B> struct same_list<list<A...>, list<B...>> {
        static constexpr bool compare() {
            if constexpr (sizeof...(A) == sizeof...(B)) {
                return (compare_types<A, B>() && ...);
            } else {
                return false;
            }
        }
        static constexpr bool value = compare();
    };

    static constexpr bool value =
        compare_types<OurResult, TheirResult>() && same_list<list<Ours...>, list<Theirs...>>::value;
};

static_assert(same_function<int32_t (*)(const char *), ggml_status (*)(const char *)>::value, "");
static_assert(!same_function<int32_t (*)(char *), ggml_status (*)(const char *)>::value, "");
static_assert(!same_function<int64_t (*)(), ggml_status (*)()>::value, "");
static_assert(!same_function<void (*)(), void (*)(int)>::value, "");

#define LCG_CHECK(name, result, parameters)                                                                            \
    static_assert(same_function<result(*) parameters, decltype(&::name)>::value, "function " #name " differs");
LCG_HOST_FUNCTIONS(LCG_CHECK)
#undef LCG_CHECK

// looked up by name in gate.cpp
static_assert(same_function<void (*)(ggml_backend *, int), ggml_backend_set_n_threads_t>::value,
    "function ggml_backend_set_n_threads differs");

// what the stages put into a llama_sampler_i
#define LCG_CHECK(name, result, parameters)                                                                            \
    static_assert(same_function<result(*) parameters, decltype(llama_sampler_i::name)>::value,                         \
        "callback llama_sampler_i::" #name " differs");
LCG_CHECK(name, const char *, (const llama_sampler *) )
LCG_CHECK(accept, void, (llama_sampler *, int32_t) )
LCG_CHECK(apply, void, (llama_sampler *, llama_token_data_array *) )
LCG_CHECK(reset, void, (llama_sampler *) )
LCG_CHECK(clone, llama_sampler *, (const llama_sampler *) )
LCG_CHECK(free, void, (llama_sampler *) )
#undef LCG_CHECK

// ---- layouts ----

#define LCG_CHECK_SIZE(ours, theirs)                                                                                   \
    static_assert(sizeof(ours) == sizeof(theirs) && alignof(ours) == alignof(theirs), "size of " #theirs " differs")
#define LCG_CHECK_FIELD(ours, theirs, field)                                                                           \
    static_assert(                                                                                                     \
        offsetof(ours, field) == offsetof(theirs, field) &&                                                            \
            sizeof(decltype(ours::field)) == sizeof(decltype(theirs::field)) &&                                        \
            std::is_floating_point_v<decltype(ours::field)> == std::is_floating_point_v<decltype(theirs::field)> &&    \
            std::is_pointer_v<decltype(ours::field)> == std::is_pointer_v<decltype(theirs::field)> &&                  \
            std::is_signed_v<decltype(ours::field)> == std::is_signed_v<decltype(theirs::field)>,                      \
        "field " #theirs "::" #field " differs")

LCG_CHECK_SIZE(token_data, llama_token_data);
LCG_CHECK_FIELD(token_data, llama_token_data, id);
LCG_CHECK_FIELD(token_data, llama_token_data, logit);
LCG_CHECK_FIELD(token_data, llama_token_data, p);

LCG_CHECK_SIZE(token_data_array, llama_token_data_array);
LCG_CHECK_FIELD(token_data_array, llama_token_data_array, data);
LCG_CHECK_FIELD(token_data_array, llama_token_data_array, size);
LCG_CHECK_FIELD(token_data_array, llama_token_data_array, selected);
LCG_CHECK_FIELD(token_data_array, llama_token_data_array, sorted);

LCG_CHECK_SIZE(sampler_object, llama_sampler);
LCG_CHECK_FIELD(sampler_object, llama_sampler, iface);
LCG_CHECK_FIELD(sampler_object, llama_sampler, ctx);

LCG_CHECK_SIZE(token_batch, llama_batch);
LCG_CHECK_FIELD(token_batch, llama_batch, n_tokens);
LCG_CHECK_FIELD(token_batch, llama_batch, token);
LCG_CHECK_FIELD(token_batch, llama_batch, embd);
LCG_CHECK_FIELD(token_batch, llama_batch, pos);
LCG_CHECK_FIELD(token_batch, llama_batch, n_seq_id);
LCG_CHECK_FIELD(token_batch, llama_batch, seq_id);
LCG_CHECK_FIELD(token_batch, llama_batch, logits);
static_assert(std::is_same_v<llama_pos, int32_t> && std::is_same_v<llama_seq_id, int32_t>, "numbers of a batch differ");

LCG_CHECK_SIZE(tensor_context_params, ggml_init_params);
LCG_CHECK_FIELD(tensor_context_params, ggml_init_params, mem_size);
LCG_CHECK_FIELD(tensor_context_params, ggml_init_params, mem_buffer);
LCG_CHECK_FIELD(tensor_context_params, ggml_init_params, no_alloc);

// ---- numbers ----

static_assert(int(type_f32) == int(GGML_TYPE_F32), "GGML_TYPE_F32 differs");
static_assert(int(type_f16) == int(GGML_TYPE_F16), "GGML_TYPE_F16 differs");
static_assert(int(type_q8_0) == int(GGML_TYPE_Q8_0), "GGML_TYPE_Q8_0 differs");
static_assert(int(type_i8) == int(GGML_TYPE_I8), "GGML_TYPE_I8 differs");
static_assert(int(type_bf16) == int(GGML_TYPE_BF16), "GGML_TYPE_BF16 differs");
static_assert(int(device_cpu) == int(GGML_BACKEND_DEVICE_TYPE_CPU), "GGML_BACKEND_DEVICE_TYPE_CPU differs");
static_assert(int(device_gpu) == int(GGML_BACKEND_DEVICE_TYPE_GPU), "GGML_BACKEND_DEVICE_TYPE_GPU differs");
static_assert(int(device_igpu) == int(GGML_BACKEND_DEVICE_TYPE_IGPU), "GGML_BACKEND_DEVICE_TYPE_IGPU differs");
static_assert(int(GGML_STATUS_SUCCESS) == 0, "GGML_STATUS_SUCCESS differs");

// the type bits of a token, as python/lcg_cpp/base_model.py names them
static_assert(LLAMA_TOKEN_ATTR_UNKNOWN == 1 && LLAMA_TOKEN_ATTR_UNUSED == 2 && LLAMA_TOKEN_ATTR_NORMAL == 4 &&
                  LLAMA_TOKEN_ATTR_CONTROL == 8 && LLAMA_TOKEN_ATTR_USER_DEFINED == 16 && LLAMA_TOKEN_ATTR_BYTE == 32,
    "llama_token_attr differs");

} // namespace lcg
