// Finds llama.cpp's functions in the process that liblcg was loaded into.
#include "c_host.h"

#include "core.h"
#include "text.h"

#include <cstring>
#include <mutex>

#ifdef _WIN32
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace lcg {
namespace {

void * find([[maybe_unused]] void * library, const char * name) {
#ifdef _WIN32
    for (const char * library : {"llama.dll", "ggml.dll", "ggml-base.dll", "ggml-cpu.dll"}) {
        if (const HMODULE module = GetModuleHandleA(library)) {
            if (const FARPROC address = GetProcAddress(module, name)) {
                return reinterpret_cast<void *>(address);
            }
        }
    }
    const FARPROC address = GetProcAddress(GetModuleHandleA(nullptr), name); // linked into the program
    return reinterpret_cast<void *>(address);
#else
    return dlsym(library != nullptr ? library : RTLD_DEFAULT, name);
#endif
}

template <typename F> void set(F *& slot, void * library, const char * name) {
    slot = reinterpret_cast<F *>(find(library, name));
    if (slot == nullptr && library != nullptr) {
        throw no_host(joined(
            "this llama.cpp has no function `", name, "`: it is older or newer than those that the gate works with"));
    }
    if (slot == nullptr) {
        throw no_host(joined("llama.cpp's function `", name,
            "` is not in this process: link the program with libllama and libggml, or open them with RTLD_GLOBAL"));
    }
}

// ---- proof that llama.cpp's structures are those of host_api.h, which its functions' names do not tell ----

struct chain_parameters {
    bool no_perf;
};

void require_layout(bool holds, const char * what) {
    if (!holds) {
        throw no_host(joined("this llama.cpp lays out `", what,
            "` in another way: it is older or newer than those that the gate works with"));
    }
}

// Both lie in one library, code or data.
bool lie_together([[maybe_unused]] const void * a, [[maybe_unused]] const void * b) {
#ifdef _WIN32
    return true;
#else
    Dl_info first{}, second{};
    return dladdr(a, &first) != 0 && dladdr(b, &second) != 0 && first.dli_fbase == second.dli_fbase;
#endif
}

void prove_chain(const llama_sampler * chain, const void * made_by) {
    const auto * functions =
        reinterpret_cast<const sampler_functions *>(reinterpret_cast<const sampler_object *>(chain)->iface);
    require_layout(lie_together(functions, made_by), "llama_sampler");
    // not `apply`, which a preload library may have replaced
    const void * const others[] = {reinterpret_cast<const void *>(functions->name),
        reinterpret_cast<const void *>(functions->accept), reinterpret_cast<const void *>(functions->reset),
        reinterpret_cast<const void *>(functions->clone), reinterpret_cast<const void *>(functions->free)};
    for (const void * function : others) {
        require_layout(lie_together(function, made_by), "llama_sampler_i");
    }
    require_layout(std::strcmp(functions->name(chain), "chain") == 0, "llama_sampler_i");
}

// A greedy choice among tokens finds the most probable one, and moves none.
void prove_tokens(const host_api & api, llama_sampler * chain) {
    token_data tokens[8] = {{7, 1.0f, 0.0f}, {8, -2.0f, 0.0f}, {9, 3.0f, 0.0f}, {10, 2.0f, 0.0f}};
    struct {
        token_data_array array;
        uint64_t         spare[8]; // for what a newer one has behind it
    } given = {{tokens, 4, -1, false}, {}};
    api.llama_sampler_apply(chain, reinterpret_cast<llama_token_data_array *>(&given.array));
    require_layout(given.array.data == tokens && given.array.size == 4, "llama_token_data_array");
    require_layout(given.array.selected == 2 && tokens[2].id == 9 && tokens[2].logit == 3.0f, "llama_token_data");
}

void prove_layouts(const host_api & api, void * library) {
    llama_sampler * (*new_chain)(chain_parameters) = nullptr;
    llama_sampler * (*new_greedy)()                = nullptr;
    set(new_chain, library, "llama_sampler_chain_init");
    set(new_greedy, library, "llama_sampler_init_greedy");
    llama_sampler * chain = new_chain({true});
    prove_chain(chain, reinterpret_cast<const void *>(new_chain)); // what is laid out in another way is not freed
    api.llama_sampler_chain_add(chain, new_greedy());
    prove_tokens(api, chain);
    api.llama_sampler_free(chain);
}

} // namespace

void connect_host(void * library) {
    static std::mutex                 lock;
    const std::lock_guard<std::mutex> guard(lock);
    if (host.ggml_init != nullptr) {
        return;
    }
    host_api api;
#define LCG_SET(name, result, parameters) set(api.name, library, #name);
    LCG_HOST_FUNCTIONS(LCG_SET)
#undef LCG_SET
    prove_layouts(api, library);
    host = api;
}

} // namespace lcg
