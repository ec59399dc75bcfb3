// The preload library: in a program that knows nothing of the gate it takes the place of a few of llama.cpp's functions
// (LD_PRELOAD, DYLD_INSERT_LIBRARIES). The contexts get a tap; a chain of samplers gets its stages when it is first
// applied, because then it is finished. llama.cpp may have been opened privately (ctypes, Node), where the next
// function of a name cannot be asked for: the real ones are looked up in the library that calls.
#include "preload.h"

#include "text.h"

#include <dlfcn.h>
#include <unordered_map>

using namespace lcg;

#ifdef __APPLE__
// dyld replaces what the table names, in every image but this one.
#define LCG_REPLACES(name)                                                                                             \
    __attribute__((used, section("__DATA,__interpose"))) static const void * const replaces_##name[] = {               \
        reinterpret_cast<const void *>(&lcg_##name), reinterpret_cast<const void *>(&name)};
#define LCG_NAME(name) lcg_##name
#else
#define LCG_REPLACES(name)
#define LCG_NAME(name) name
#endif
#define LCG_EXPORT extern "C" __attribute__((visibility("default")))
#define LCG_WEAK __attribute__((weak_import)) // a process may have no llama.cpp

struct ggml_backend_sched;

extern "C" {
using eval_callback = bool (*)(ggml_tensor *, bool, void *);
#ifdef __APPLE__
LCG_WEAK void            ggml_backend_sched_set_eval_callback(ggml_backend_sched *, eval_callback, void *);
LCG_WEAK void            ggml_backend_sched_free(ggml_backend_sched *);
LCG_WEAK void            ggml_backend_sched_reset(ggml_backend_sched *);
LCG_WEAK float *         llama_get_logits(llama_context *);
LCG_WEAK float *         llama_get_logits_ith(llama_context *, int32_t);
LCG_WEAK int32_t         llama_sampler_sample(llama_sampler *, llama_context *, int32_t);
LCG_WEAK bool            llama_set_sampler(llama_context *, int32_t, llama_sampler *);
LCG_WEAK void            llama_sampler_copy(const llama_sampler *, llama_sampler *);
LCG_WEAK int32_t         llama_decode(llama_context *, token_batch);
LCG_WEAK void            llama_free(llama_context *);
LCG_WEAK int32_t         llama_sampler_chain_n(const llama_sampler *);
LCG_WEAK llama_sampler * llama_sampler_chain_get(llama_sampler *, int32_t);
LCG_WEAK llama_sampler * llama_sampler_chain_remove(llama_sampler *, int32_t);
#endif
}

namespace {

// ---- the real functions ----

void * library = nullptr; // of llama.cpp, with those it needs; null before a context was made

// The library that an address of code lies in.
void * library_at(void * address) {
    Dl_info info{};
    return dladdr(address, &info) != 0 && info.dli_fname != nullptr ? dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD)
                                                                    : nullptr;
}

template <typename F> F * real(F * replacement, const char * name, void * caller) {
    void * found = library != nullptr ? dlsym(library, name) : nullptr;
    if (found == nullptr) {
        found = dlsym(RTLD_NEXT, name);
    }
    if (found == nullptr) {
        void * calling = library_at(caller);
        found          = calling != nullptr ? dlsym(calling, name) : nullptr;
    }
    return found != reinterpret_cast<void *>(replacement) ? reinterpret_cast<F *>(found) : nullptr;
}

// Looked up at the first call; `name` is the function that this library has in its place.
#ifdef __APPLE__
#define LCG_REAL(name) static auto * const real_##name = &name // dyld leaves this library's own calls alone
#else
#define LCG_REAL(name) static auto * const real_##name = real(&name, #name, __builtin_return_address(0))
#endif

// ---- contexts ----

// The tap of a context's scheduler, and the program's own callback.
struct tapped {
    std::mutex    lock;
    tap           rows{512, true};
    eval_callback program       = nullptr;
    void *        data          = nullptr;
    bool          program_wants = false, is_wanted = true; // the tensor that was asked for last
    bool          is_useless = false;                      // no gate fits contexts of these widths
};

// never destroyed: contexts may be freed while the process ends
std::mutex & contexts_lock = *new std::mutex;
auto &       contexts      = *new std::unordered_map<ggml_backend_sched *, std::unique_ptr<tapped>>;

bool on_tensor(ggml_tensor * tensor, bool ask, void * user_data) {
    auto & self = *static_cast<tapped *>(user_data);
    if (ask) {
        self.program_wants = self.program != nullptr && self.program(tensor, true, self.data);
        self.is_wanted     = !self.is_useless && tap::on_tensor(tensor, true, &self.rows);
        return self.program_wants || self.is_wanted;
    }
    if (self.is_wanted) {
        const std::lock_guard<std::mutex> guard(self.lock);
        tap::on_tensor(tensor, false, &self.rows);
        self.is_useless = self.rows.n_embd() != 0 && !may_want(self.rows.n_embd());
    }
    return !self.program_wants || self.program(tensor, false, self.data);
}

// Connects to the llama.cpp that calls; false where this is not possible, or not wanted.
bool connect(void * caller) {
    static std::mutex                 lock;
    static bool                       is_over = !settings().wants_anything();
    const std::lock_guard<std::mutex> guard(lock);
    void *                            calling = is_over ? nullptr : library_at(caller);
    if (calling == nullptr || dlsym(calling, "llama_sampler_chain_init") == nullptr) { // another user of ggml
        return is_connected();
    }
    is_over = true;
    try {
        connect_host(calling);
        library = calling;
        load_gates();
        replace_functions(calling);
        start_reports();
    } catch (const std::exception & error) {
        tell_ungated(error.what());
    }
    return is_connected();
}

} // namespace

const float * lcg::hidden_of(const float * logits, size_t n_vocab, size_t n_embd) {
    static thread_local std::vector<float> copy;
    const std::lock_guard<std::mutex>      guard(contexts_lock);
    for (auto & [scheduler, context] : contexts) {
        const std::lock_guard<std::mutex> context_guard(context->lock);
        const bool                        fits = context->rows.n_embd() == n_embd;
        if (const float * hidden = fits ? context->rows.row_like(logits, n_vocab) : nullptr) {
            copy.assign(hidden, hidden + n_embd);
            return copy.data();
        }
    }
    return nullptr;
}

// ---- in the place of llama.cpp's functions ----

LCG_EXPORT void LCG_NAME(ggml_backend_sched_set_eval_callback)(
    ggml_backend_sched * scheduler, eval_callback callback, void * data) {
    const bool is_ours = connect(__builtin_return_address(0));
    LCG_REAL(ggml_backend_sched_set_eval_callback);
    if (!is_ours) {
        return real_ggml_backend_sched_set_eval_callback(scheduler, callback, data);
    }
    const std::lock_guard<std::mutex> guard(contexts_lock);
    std::unique_ptr<tapped> &         context = contexts[scheduler];
    if (context == nullptr) {
        context              = std::make_unique<tapped>();
        context->rows.active = true;
    }
    context->program = callback;
    context->data    = data;
    if (context->is_useless) {
        return real_ggml_backend_sched_set_eval_callback(scheduler, callback, data);
    }
    real_ggml_backend_sched_set_eval_callback(scheduler, on_tensor, context.get());
}
LCG_REPLACES(ggml_backend_sched_set_eval_callback)

// Called while a context is made, before a chain can be told of the first prompt.
LCG_EXPORT void LCG_NAME(ggml_backend_sched_reset)(ggml_backend_sched * scheduler) {
    connect(__builtin_return_address(0));
    LCG_REAL(ggml_backend_sched_reset);
    real_ggml_backend_sched_reset(scheduler);
}
LCG_REPLACES(ggml_backend_sched_reset)

LCG_EXPORT void LCG_NAME(ggml_backend_sched_free)(ggml_backend_sched * scheduler) {
    LCG_REAL(ggml_backend_sched_free);
    {
        const std::lock_guard<std::mutex> guard(contexts_lock);
        contexts.erase(scheduler); // before its address can be another's
    }
    real_ggml_backend_sched_free(scheduler);
}
LCG_REPLACES(ggml_backend_sched_free)

LCG_EXPORT int32_t LCG_NAME(llama_decode)(llama_context * context, token_batch batch) {
    LCG_REAL(llama_decode);
    const int32_t status = real_llama_decode(context, batch);
    if (status == 0 && is_connected()) {
        note_batch(context, &batch);
    }
    return status;
}
LCG_REPLACES(llama_decode)

// Newer than `llama_decode`; its batches keep what they hold to themselves.
LCG_EXPORT int32_t LCG_NAME(llama_process)(llama_context * context, int32_t type, void * batch) {
    LCG_REAL(llama_process);
    if (is_connected()) {
        note_batch(context, nullptr);
    }
    return real_llama_process(context, type, batch);
}
LCG_REPLACES(llama_process)

LCG_EXPORT void LCG_NAME(llama_free)(llama_context * context) {
    LCG_REAL(llama_free);
    drop_context(context);
    real_llama_free(context);
}
LCG_REPLACES(llama_free)

LCG_EXPORT float * LCG_NAME(llama_get_logits_ith)(llama_context * context, int32_t i) {
    LCG_REAL(llama_get_logits_ith);
    float * row = real_llama_get_logits_ith(context, i);
    see_row(context, row);
    return row;
}
LCG_REPLACES(llama_get_logits_ith)

LCG_EXPORT float * LCG_NAME(llama_get_logits)(llama_context * context) {
    LCG_REAL(llama_get_logits);
    float * rows = real_llama_get_logits(context);
    see_row(context, rows);
    return rows;
}
LCG_REPLACES(llama_get_logits)

LCG_EXPORT int32_t LCG_NAME(llama_sampler_sample)(llama_sampler * sampler, llama_context * context, int32_t i) {
    LCG_REAL(llama_sampler_sample);
    // where llama.cpp's own calls cannot be seen
    see_row(context, is_connected() ? host.llama_get_logits_ith(context, i) : nullptr);
    return real_llama_sampler_sample(sampler, context, i);
}
LCG_REPLACES(llama_sampler_sample)

// A chain that runs within the graph takes its choice before the gate could see it.
LCG_EXPORT bool LCG_NAME(llama_set_sampler)(llama_context * context, int32_t sequence, llama_sampler * sampler) {
    LCG_REAL(llama_set_sampler);
    if (sampler == nullptr || !is_connected()) {
        return real_llama_set_sampler(context, sequence, sampler);
    }
    static std::atomic<bool> told{false};
    if (!told.exchange(true)) {
        tell("samplers run on the CPU instead of in llama.cpp's graph, where the gate cannot stand");
    }
    return false;
}
LCG_REPLACES(llama_set_sampler)

LCG_EXPORT void LCG_NAME(llama_sampler_copy)(const llama_sampler * source, llama_sampler * target) {
    LCG_REAL(llama_sampler_copy);
    if (is_connected() && is_chain(source) && is_chain(target)) {
        try {
            make_alike(const_cast<llama_sampler *>(source), target); // the source is only looked at
        } catch (const std::exception & error) {
            tell(joined("a chain of samplers cannot be copied with its gate: ", error.what()));
        }
    }
    real_llama_sampler_copy(source, target);
}
LCG_REPLACES(llama_sampler_copy)

// A program sees its own samplers in a chain.

LCG_EXPORT int32_t LCG_NAME(llama_sampler_chain_n)(const llama_sampler * chain) {
    LCG_REAL(llama_sampler_chain_n);
    return is_connected() && is_chain(chain) ? n_own(const_cast<llama_sampler *>(chain))
                                             : real_llama_sampler_chain_n(chain);
}
LCG_REPLACES(llama_sampler_chain_n)

LCG_EXPORT llama_sampler * LCG_NAME(llama_sampler_chain_get)(llama_sampler * chain, int32_t i) {
    LCG_REAL(llama_sampler_chain_get);
    return real_llama_sampler_chain_get(chain, is_connected() && is_chain(chain) ? index_in(chain, i) : i);
}
LCG_REPLACES(llama_sampler_chain_get)

LCG_EXPORT llama_sampler * LCG_NAME(llama_sampler_chain_remove)(llama_sampler * chain, int32_t i) {
    LCG_REAL(llama_sampler_chain_remove);
    if (!is_connected() || !is_chain(chain)) {
        return real_llama_sampler_chain_remove(chain, i);
    }
    note_change(chain);
    return real_llama_sampler_chain_remove(chain, index_in(chain, i));
}
LCG_REPLACES(llama_sampler_chain_remove)
