// Finds llama.cpp's functions in the process that liblcg was loaded into.
#include "c_host.h"

#include "core.h"
#include "text.h"

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
    if (slot == nullptr) {
        throw no_host(joined("llama.cpp's function `", name,
            "` is not in this process: link the program with libllama and libggml, or open them with RTLD_GLOBAL"));
    }
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
    host = api;
}

} // namespace lcg
