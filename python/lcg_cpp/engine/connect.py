"""Connecting the C++ core to the llama.cpp that llama_cpp has loaded."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

import llama_cpp
from llama_cpp import _ctypes_extensions as ctypes_extensions
from llama_cpp import llama_cpp as bindings

from .. import _core
from ..errors import GateError


def _libraries() -> list[ctypes.CDLL]:
    """The shared libraries of llama-cpp-python that are there, libllama first."""
    found = [bindings._lib]
    for name in ("ggml", "ggml-base", "ggml-cpu"):
        try:
            found.append(ctypes_extensions.load_shared_library(name, bindings._base_path))
        except FileNotFoundError:  # linked into another library in this build
            continue
    return found


def function_addresses(names: Sequence[str]) -> dict[str, int]:
    """Addresses of functions in the libraries of llama-cpp-python; those that are not there are left out."""
    addresses = {}
    libraries = _libraries()
    for name in names:
        for library in libraries:
            function = getattr(library, name, None)
            if function is not None:
                addresses[name] = ctypes.cast(function, ctypes.c_void_p).value or 0
                break
    return addresses


def _check_layouts(wanted: dict[str, dict[str, int]]) -> None:
    """Compare the core's structures with those that llama_cpp declares for the library it loaded."""
    for struct_name, fields in wanted.items():
        struct = getattr(bindings, struct_name)
        for field, value in fields.items():
            found = ctypes.sizeof(struct) if field == "size" else getattr(struct, field.rstrip("_")).offset
            if found != value:
                what = "size" if field == "size" else f"offset of `{field.rstrip('_')}`"
                raise GateError(
                    f"llama-cpp-python {llama_cpp.__version__}: `{struct_name}`: {what} is {found}, lcg-cpp was"
                    f" written for {value}; install a version of lcg-cpp made for this llama-cpp-python"
                )


def new_tap(capacity: int = 1) -> _core.Tap:
    """A tap that keeps at most `capacity` hidden states, for the life of one context."""
    connect_core()
    return _core.Tap(capacity)


def attach_tap(tap: _core.Tap, params: bindings.llama_context_params) -> None:
    """Make the tap the graph callback of the context that is made with `params`; it must outlive the context."""
    params.cb_eval = bindings.ggml_backend_sched_eval_callback(_core.tap_callback())
    params.cb_eval_user_data = ctypes.c_void_p(tap.address)


@functools.cache
def connect_core() -> None:
    """Give the core the functions of the llama.cpp that llama_cpp has loaded; once per process."""
    _check_layouts(_core.host_layouts())
    _core.set_host_api(function_addresses(_core.host_functions()))
