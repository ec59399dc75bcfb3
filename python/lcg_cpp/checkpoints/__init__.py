"""Models and gates that are no GGUF files: PyTorch checkpoints, safetensors, folders of Hugging Face."""
