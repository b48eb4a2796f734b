"""Many engines behind one address: which engine, how the bytes get there, what if it fails.

Speaks HTTP to every engine, ours included, and imports neither `stoker.engine` nor
`stoker.server`. The path of a request: `downstream` (a client's connection) → `exchange`
(one request's life: admission, choice, attempts) → `upstream` (an engine's connection).
"""
