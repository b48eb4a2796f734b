"""Weights from safetensors and GGUF files, under one set of names (see `base`).

`gguf` and `safetensors` read files, `transforms` and `canonical` bring what they hold under
those names, `names` lists the weights that a spec implies.
"""
