"""How a batch is computed: `reference` (NumPy, the oracle) and `cpu` (native kernels).

Knows batches only: no request, no queue, no text.
"""
