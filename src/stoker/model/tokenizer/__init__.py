"""Text to token ids and back.

`base` is the `Tokenizer` everyone uses; `hf` and `gguf` build one from a Hugging Face directory
or from GGUF metadata; `vocabulary` says which bytes each token stands for; `pretokenizers` holds
the splitting rules that GGUF files name. Nothing here knows about requests or weights.
"""

from stoker.model.tokenizer.base import Tokenizer

__all__ = ["Tokenizer"]
