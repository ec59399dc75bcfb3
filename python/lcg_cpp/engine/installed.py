"""Whether the installed llama_cpp is one that the engine can be built on."""

from __future__ import annotations

import importlib

from ..errors import GateError

# What the engine extends or calls and other projects of the same name do not have.
_NEEDED = {
    "llama_cpp": ("Llama._init_sampler", "Llama.sample", "Llama.generate", "Llama.eval"),
    "llama_cpp._internals": ("LlamaModel", "LlamaContext", "LlamaBatch.set_batch", "LlamaSampler"),
    "llama_cpp._ctypes_extensions": ("load_shared_library",),
    "llama_cpp.llama_cpp": (
        *("_lib", "_base_path", "llama_sampler", "llama_sampler_init", "ggml_backend_sched_eval_callback"),
        *(f"llama_sampler_i_{callback}" for callback in ("name", "accept", "apply", "reset", "clone", "free")),
    ),
    "llama_cpp.llama_tokenizer": ("LlamaTokenizer",),
}


def check_llama_cpp() -> None:
    """Refuse a llama_cpp of another project, or of a version with other insides, before anything meets it."""
    for module_name, names in _NEEDED.items():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if module_name == "llama_cpp":  # not installed at all: Python says so
                raise
            raise GateError(_refusal(module_name)) from error
        for name in names:
            found: object = module
            for part in name.split("."):
                found = getattr(found, part, None)
            if found is None:
                raise GateError(_refusal(f"{module_name}.{name}"))


def _refusal(name: str) -> str:
    llama_cpp = importlib.import_module("llama_cpp")
    version = getattr(llama_cpp, "__version__", "of an unknown version")
    return (
        f"the installed llama-cpp-python {version} has no `{name}`: lcg-cpp works with abetlen's package,"
        " not with forks of the same name; pip install --force-reinstall --no-deps 'llama-cpp-python>=0.3.36'"
    )
