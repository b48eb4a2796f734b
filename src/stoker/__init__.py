"""Stoker: open language models behind one OpenAI-compatible address."""

__version__ = "0.1.0"
