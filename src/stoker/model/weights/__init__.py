"""Weights from safetensors and GGUF files, under one set of names (see `base`)."""
