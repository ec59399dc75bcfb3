// The functions of llama.cpp and ggml that the core calls, and the few layouts it shares with them.
//
// The core links neither library. The Python extension gets the functions' addresses once, from the libraries that
// llama_cpp has loaded (set_host_api in bindings.cpp); liblcg looks them up in its process (c_host.cpp).
// tests/cpp/host_api_drift.cpp compares every declaration here with the headers that llama-cpp-python installs.
#pragma once

#include <cstddef>
#include <cstdint>

struct llama_context;
struct llama_model;
struct llama_sampler;
struct llama_sampler_i;
struct llama_token_data_array;
struct llama_vocab;
struct ggml_backend;
struct ggml_backend_buffer;
struct ggml_backend_buffer_type;
struct ggml_backend_device;
struct ggml_backend_reg;
struct ggml_cgraph;
struct ggml_context;
struct ggml_gallocr;
struct ggml_tensor;

namespace lcg {

// llama_token_data
struct token_data {
    int32_t id;
    float   logit;
    float   p;
};

// llama_token_data_array
struct token_data_array {
    token_data * data;
    size_t       size;
    int64_t      selected; // index into data, -1: none yet
    bool         sorted;
};

// llama_sampler
struct sampler_object {
    llama_sampler_i * iface;
    void *            ctx;
};

// llama_sampler_i: what llama.cpp calls, and zeros for whatever it may call in addition
struct sampler_functions {
    const char * (*name)(const llama_sampler *);
    void (*accept)(llama_sampler *, int32_t);
    void (*apply)(llama_sampler *, token_data_array *);
    void (*reset)(llama_sampler *);
    llama_sampler * (*clone)(const llama_sampler *);
    void (*free)(llama_sampler *);
    void * unused[26] = {};
};

// llama_batch
struct token_batch {
    int32_t    n_tokens;
    int32_t *  token; // null: embeddings
    float *    embd;
    int32_t *  pos; // null: each sequence goes on
    int32_t *  n_seq_id;
    int32_t ** seq_id; // null: sequence 0
    int8_t *   logits; // null: of the last token only
};

// ggml_init_params
struct tensor_context_params {
    size_t mem_size;
    void * mem_buffer;
    bool   no_alloc;
};

// enum ggml_type
enum tensor_type : int32_t { type_f32 = 0, type_f16 = 1, type_q8_0 = 8, type_i8 = 24, type_bf16 = 30 };

// enum ggml_backend_dev_type
enum device_type : int32_t { device_cpu = 0, device_gpu = 1, device_igpu = 2 };

// clang-format off
// X(name, return type, parameters); enums are passed as int32_t
#define LCG_HOST_FUNCTIONS(X)                                                                                          \
    X(llama_sampler_init, llama_sampler *, (llama_sampler_i *, void *))                                                \
    X(llama_sampler_apply, void, (llama_sampler *, llama_token_data_array *))                                          \
    X(llama_sampler_accept, void, (llama_sampler *, int32_t))                                                          \
    X(llama_sampler_clone, llama_sampler *, (const llama_sampler *))                                                   \
    X(llama_sampler_free, void, (llama_sampler *))                                                                     \
    X(llama_sampler_reset, void, (llama_sampler *))                                                                    \
    X(llama_sampler_name, const char *, (const llama_sampler *))                                                       \
    X(llama_sampler_chain_n, int32_t, (const llama_sampler *))                                                         \
    X(llama_sampler_chain_get, llama_sampler *, (llama_sampler *, int32_t))                                            \
    X(llama_sampler_chain_remove, llama_sampler *, (llama_sampler *, int32_t))                                         \
    X(llama_sampler_chain_add, void, (llama_sampler *, llama_sampler *))                                               \
    X(llama_get_model, const llama_model *, (const llama_context *))                                                   \
    X(llama_model_get_vocab, const llama_vocab *, (const llama_model *))                                               \
    X(llama_model_n_embd, int32_t, (const llama_model *))                                                              \
    X(llama_model_n_embd_out, int32_t, (const llama_model *))                                                          \
    X(llama_model_meta_val_str, int32_t, (const llama_model *, const char *, char *, size_t))                          \
    X(llama_get_logits_ith, float *, (llama_context *, int32_t))                                                       \
    X(llama_get_logits, float *, (llama_context *))                                                                    \
    X(llama_vocab_n_tokens, int32_t, (const llama_vocab *))                                                            \
    X(llama_vocab_get_text, const char *, (const llama_vocab *, int32_t))                                              \
    X(llama_vocab_get_attr, int32_t, (const llama_vocab *, int32_t))                                                   \
    X(llama_token_to_piece, int32_t, (const llama_vocab *, int32_t, char *, int32_t, int32_t, bool))                   \
    X(ggml_init, ggml_context *, (tensor_context_params))                                                              \
    X(ggml_free, void, (ggml_context *))                                                                               \
    X(ggml_get_name, const char *, (const ggml_tensor *))                                                              \
    X(ggml_nrows, int64_t, (const ggml_tensor *))                                                                      \
    X(ggml_nelements, int64_t, (const ggml_tensor *))                                                                  \
    X(ggml_nbytes, size_t, (const ggml_tensor *))                                                                      \
    X(ggml_tensor_overhead, size_t, ())                                                                                \
    X(ggml_graph_overhead_custom, size_t, (size_t, bool))                                                              \
    X(ggml_new_tensor_2d, ggml_tensor *, (ggml_context *, int32_t, int64_t, int64_t))                                  \
    X(ggml_mul_mat, ggml_tensor *, (ggml_context *, ggml_tensor *, ggml_tensor *))                                     \
    X(ggml_add, ggml_tensor *, (ggml_context *, ggml_tensor *, ggml_tensor *))                                         \
    X(ggml_relu, ggml_tensor *, (ggml_context *, ggml_tensor *))                                                       \
    X(ggml_set_input, void, (ggml_tensor *))                                                                           \
    X(ggml_set_output, void, (ggml_tensor *))                                                                          \
    X(ggml_new_graph_custom, ggml_cgraph *, (ggml_context *, size_t, bool))                                            \
    X(ggml_build_forward_expand, void, (ggml_cgraph *, ggml_tensor *))                                                 \
    X(ggml_gallocr_new, ggml_gallocr *, (ggml_backend_buffer_type *))                                                  \
    X(ggml_gallocr_alloc_graph, bool, (ggml_gallocr *, ggml_cgraph *))                                                 \
    X(ggml_gallocr_free, void, (ggml_gallocr *))                                                                       \
    X(ggml_backend_alloc_ctx_tensors_from_buft, ggml_backend_buffer *, (ggml_context *, ggml_backend_buffer_type *))   \
    X(ggml_backend_buffer_free, void, (ggml_backend_buffer *))                                                         \
    X(ggml_backend_tensor_set, void, (ggml_tensor *, const void *, size_t, size_t))                                    \
    X(ggml_backend_tensor_get, void, (const ggml_tensor *, void *, size_t, size_t))                                    \
    X(ggml_backend_graph_compute, int32_t, (ggml_backend *, ggml_cgraph *))                                            \
    X(ggml_backend_supports_op, bool, (ggml_backend *, const ggml_tensor *))                                           \
    X(ggml_backend_free, void, (ggml_backend *))                                                                       \
    X(ggml_backend_load_all, void, ())                                                                                 \
    X(ggml_backend_dev_by_type, ggml_backend_device *, (int32_t))                                                      \
    X(ggml_backend_dev_init, ggml_backend *, (ggml_backend_device *, const char *))                                    \
    X(ggml_backend_dev_buffer_type, ggml_backend_buffer_type *, (ggml_backend_device *))                               \
    X(ggml_backend_dev_backend_reg, ggml_backend_reg *, (ggml_backend_device *))                                       \
    X(ggml_backend_dev_name, const char *, (ggml_backend_device *))                                                    \
    X(ggml_backend_reg_get_proc_address, void *, (ggml_backend_reg *, const char *))
// clang-format on

struct host_api {
#define LCG_DECLARE(name, result, parameters) result(*name) parameters = nullptr;
    LCG_HOST_FUNCTIONS(LCG_DECLARE)
#undef LCG_DECLARE
};

// Filled by set_host_api before anything below the bindings runs.
inline host_api host;

} // namespace lcg
