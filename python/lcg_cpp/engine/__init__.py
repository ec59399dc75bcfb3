"""The engine: llama.cpp (or transformers) as everything else sees it. The only room that knows llama_cpp's insides."""

from .installed import check_llama_cpp

check_llama_cpp()
