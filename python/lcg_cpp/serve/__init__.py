"""llama-cpp-python's OpenAI server, with a gate in every model that has one. Needs the extra `server`."""
