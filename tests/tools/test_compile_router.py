"""The router's files that mypyc compiles have nothing that would be another thing compiled.

That they work when they are, `make compiled-test` shows.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.compile_router import MODULES

_ROUTER = Path(__file__).parents[2] / "src/stoker/router"


@pytest.mark.parametrize("module", MODULES)
def test_a_compiled_file_has_nothing_that_compiling_would_change(module: str) -> None:
    source = (_ROUTER / f"{module}.py").read_text()
    for construct in ("(msgspec.Struct", "slots=True", "__weakref__", "field(init=False"):
        assert construct not in source
