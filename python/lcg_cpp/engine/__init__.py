"""The engine: llama.cpp (or transformers) as everything else sees it. The only room that knows llama_cpp's insides."""
