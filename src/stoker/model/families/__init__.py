"""A reader per model family: configuration or GGUF metadata → `ModelSpec` and weight names.

`base` says what a reader is and holds what most of them share; `registry` lists them all.
"""
