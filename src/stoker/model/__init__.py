"""What a model is: its spec, weights, tokenizer, chat template, and where it is kept.

Knows no request, no device and no HTTP.
"""
