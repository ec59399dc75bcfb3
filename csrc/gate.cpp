// The MLP z = W2 · relu(W1 · h + b1) + b2 on a ggml backend. z = W2 · h + b2 if the gate is linear.
#include "core.h"
#include "text.h"

#include <algorithm>
#include <map>

namespace lcg {
namespace {

template <typename T, void (*host_api::*release)(T *)> struct host_deleter {
    void operator()(T * object) const { (host.*release)(object); }
};
using context_ptr   = std::unique_ptr<ggml_context, host_deleter<ggml_context, &host_api::ggml_free>>;
using backend_ptr   = std::unique_ptr<ggml_backend, host_deleter<ggml_backend, &host_api::ggml_backend_free>>;
using allocator_ptr = std::unique_ptr<ggml_gallocr, host_deleter<ggml_gallocr, &host_api::ggml_gallocr_free>>;
using buffer_ptr =
    std::unique_ptr<ggml_backend_buffer, host_deleter<ggml_backend_buffer, &host_api::ggml_backend_buffer_free>>;

constexpr size_t max_nodes = 16;

template <typename T> T * require(T * object, const char * what) {
    if (object == nullptr) {
        throw gate_error(joined("ggml could not create ", what));
    }
    return object;
}

context_ptr new_context() {
    const size_t size = max_nodes * host.ggml_tensor_overhead() + host.ggml_graph_overhead_custom(max_nodes, false);
    return context_ptr(require(host.ggml_init({size, nullptr, true}), "a tensor context"));
}

ggml_backend_device * find_device(bool gpu) {
    if (host.ggml_backend_dev_by_type(device_cpu) == nullptr) { // builds whose backends are plug-ins
        host.ggml_backend_load_all();
    }
    if (!gpu) {
        return host.ggml_backend_dev_by_type(device_cpu);
    }
    ggml_backend_device * device = host.ggml_backend_dev_by_type(device_gpu);
    return device != nullptr ? device : host.ggml_backend_dev_by_type(device_igpu);
}

backend_ptr new_backend(ggml_backend_device * device) {
    backend_ptr backend(require(host.ggml_backend_dev_init(device, nullptr), "a backend"));
    // One thread: a gate is a few hundred microseconds of work at most, less than waking others costs.
    using set_n_threads_t    = void (*)(ggml_backend *, int);
    const auto set_n_threads = reinterpret_cast<set_n_threads_t>(host.ggml_backend_reg_get_proc_address(
        host.ggml_backend_dev_backend_reg(device), "ggml_backend_set_n_threads"));
    if (set_n_threads != nullptr) {
        set_n_threads(backend.get(), 1);
    }
    return backend;
}

} // namespace

struct device_weights {
    ggml_backend_device * device = nullptr;
    context_ptr           context;
    buffer_ptr            buffer;
    ggml_tensor *         fc1_weight = nullptr; // [n_embd, n_hidden]
    ggml_tensor *         fc1_bias   = nullptr; // [n_hidden]
    ggml_tensor *         fc2_weight = nullptr; // [n_hidden or n_embd, n_families]
    ggml_tensor *         fc2_bias   = nullptr; // [n_families]

    // The forward pass on n_columns hidden states; returns z and remembers the operations for supports().
    ggml_tensor * forward(ggml_context * ctx, ggml_tensor * hidden, std::vector<ggml_tensor *> & operations) const {
        const auto layer = [&](ggml_tensor * weight, ggml_tensor * bias, ggml_tensor * x) {
            operations.push_back(x = host.ggml_mul_mat(ctx, weight, x));
            if (bias != nullptr) {
                operations.push_back(x = host.ggml_add(ctx, x, bias));
            }
            return x;
        };
        ggml_tensor * x = hidden;
        if (fc1_weight != nullptr) {
            x = layer(fc1_weight, fc1_bias, x);
            operations.push_back(x = host.ggml_relu(ctx, x));
        }
        return layer(fc2_weight, fc2_bias, x);
    }
};

struct evaluator::graph {
    std::shared_ptr<const gate> owner;
    backend_ptr                 backend;
    context_ptr                 context;
    allocator_ptr               allocator;
    ggml_cgraph *               nodes       = nullptr;
    ggml_tensor *               hidden      = nullptr; // [n_embd, n_columns]
    ggml_tensor *               z           = nullptr; // [n_families, n_columns]
    size_t                      hidden_size = 0, z_size = 0;
    std::vector<ggml_tensor *>  operations;

    graph(std::shared_ptr<const gate> gate, size_t n_columns) : owner(std::move(gate)) {
        const device_weights & weights = *owner->weights;
        const gate_config &    config  = owner->config;
        backend                        = new_backend(weights.device);
        context                        = new_context();
        const auto columns             = static_cast<int64_t>(n_columns);
        hidden                         = host.ggml_new_tensor_2d(context.get(), type_f32, config.n_embd, columns);
        host.ggml_set_input(hidden);
        z = weights.forward(context.get(), hidden, operations);
        host.ggml_set_output(z);
        nodes = host.ggml_new_graph_custom(context.get(), max_nodes, false);
        host.ggml_build_forward_expand(nodes, z);
        hidden_size = sizeof(float) * config.n_embd * n_columns;
        z_size      = sizeof(float) * config.families.size() * n_columns;
    }

    bool supported() const {
        return std::all_of(operations.begin(), operations.end(),
            [this](const ggml_tensor * operation) { return host.ggml_backend_supports_op(backend.get(), operation); });
    }

    void allocate() {
        allocator.reset(require(
            host.ggml_gallocr_new(host.ggml_backend_dev_buffer_type(owner->weights->device)), "a graph allocator"));
        if (!host.ggml_gallocr_alloc_graph(allocator.get(), nodes)) {
            throw gate_error(joined("ggml could not allocate the gate's graph on ", owner->device));
        }
    }
};

evaluator::evaluator(std::shared_ptr<const gate> gate, size_t n_columns)
    : graph_(std::make_unique<graph>(std::move(gate), n_columns)) {
    if (!graph_->supported()) {
        throw gate_error(
            joined("device `", graph_->owner->device, "` does not support the gate's tensor types, use \"cpu\""));
    }
    graph_->allocate();
}

evaluator::~evaluator() = default;

bool evaluator::supported(const std::shared_ptr<const gate> & gate) {
    return graph(gate, 1).supported();
}

void evaluator::run(const float * hidden, float * z) {
    host.ggml_backend_tensor_set(graph_->hidden, hidden, 0, graph_->hidden_size);
    const int32_t status = host.ggml_backend_graph_compute(graph_->backend.get(), graph_->nodes);
    if (status != 0) {
        throw gate_error(joined("ggml could not evaluate the gate, status ", status));
    }
    host.ggml_backend_tensor_get(graph_->z, z, 0, graph_->z_size);
}

namespace {

std::shared_ptr<const device_weights> upload(const gate_weights & source, ggml_backend_device * device) {
    auto weights                                      = std::make_shared<device_weights>();
    weights->device                                   = device;
    weights->context                                  = new_context();
    const std::map<std::string, ggml_tensor **> slots = {{"lcg.fc1.weight", &weights->fc1_weight},
        {"lcg.fc1.bias", &weights->fc1_bias}, {"lcg.fc2.weight", &weights->fc2_weight},
        {"lcg.fc2.bias", &weights->fc2_bias}};
    for (const host_tensor & tensor : source.tensors) {
        *slots.at(tensor.name) =
            host.ggml_new_tensor_2d(weights->context.get(), tensor.type, tensor.ne[0], tensor.ne[1]);
    }
    weights->buffer.reset(require(host.ggml_backend_alloc_ctx_tensors_from_buft(
                                      weights->context.get(), host.ggml_backend_dev_buffer_type(device)),
        "a buffer for the gate"));
    for (const host_tensor & tensor : source.tensors) {
        host.ggml_backend_tensor_set(*slots.at(tensor.name), tensor.data.data(), 0, tensor.data.size());
    }
    return weights;
}

std::shared_ptr<const gate> load_on(const gate_file & file, ggml_backend_device * device) {
    auto result          = std::make_shared<gate>();
    result->config       = file.config;
    result->token_family = file.weights.token_family;
    for (size_t f = 0; f < file.config.families.size(); f++) {
        result->maskable[f] = file.config.maskable[f] != 0;
    }
    for (const uint32_t token : file.config.exempt_tokens) {
        result->token_family[token] = static_cast<uint8_t>(file.config.neutral);
    }
    result->masked_as = result->token_family;
    for (const auto & [token, family] : file.config.masked_as) {
        result->masked_as[token] = family;
    }
    result->device  = host.ggml_backend_dev_name(device);
    result->weights = upload(file.weights, device);
    return result;
}

} // namespace

std::shared_ptr<const gate> no_gate(size_t n_vocab) {
    auto result            = std::make_shared<gate>();
    result->config.n_vocab = static_cast<uint32_t>(n_vocab);
    return result;
}

std::shared_ptr<const gate> load_gate(const gate_file & file, const std::string & device) {
    if (device != "cpu" && device != "gpu" && device != "auto") {
        throw gate_error(joined("`device` is \"", device, "\", expected \"cpu\", \"gpu\" or \"auto\""));
    }
    if (device != "cpu") {
        ggml_backend_device * gpu = find_device(true);
        if (gpu == nullptr && device == "gpu") {
            throw gate_error("`device` is \"gpu\", but this build of llama-cpp-python has no GPU backend");
        }
        if (gpu != nullptr) {
            auto result = load_on(file, gpu);
            if (device == "gpu" || evaluator::supported(result)) {
                return result;
            }
        }
    }
    return load_on(file, require(find_device(false), "the CPU device"));
}

} // namespace lcg
