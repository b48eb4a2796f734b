"""Measuring: servers by their API, and the engine without one.

`dataset` makes the requests, `load` sends them as asked and times their streams, `report` turns
times into figures; `offline`, `steps` and `startup` need no server. Names of options, figures and
JSON fields are those of `vllm bench`, so results compare line by line.
"""
