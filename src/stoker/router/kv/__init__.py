"""What engines' KV caches hold, as the engines themselves publish it.

`events` reads the wire, `subscriber` keeps up with an engine, `index` knows which engine has
which blocks, `tokens` asks an engine for a prompt's tokens.
"""
