"""A reader per model family: configuration or GGUF metadata → `ModelSpec` and weight names."""
