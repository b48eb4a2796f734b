"""Two of our own engines under one `stoker up`, killed and stopped with work on them.

With llama.cpp and vLLM beside them: `tests/conformance/test_mixed_fleet.py`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from .fleet import running, survives_everything
from .test_serve import checkpoint  # noqa: F401  (a fixture)


async def test_engines_killed_and_stopped_lose_no_request(
    tmp_path: Path,
    checkpoint: Path,  # noqa: F811  (the fixture)
) -> None:
    # Room for answers that last long enough to be interrupted.
    model = Path(shutil.copytree(checkpoint, tmp_path / "tiny"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8192}))
    engine = {"kind": "native", "model": str(model), "models": ["tiny"]}
    engines = [{"name": "a"} | engine, {"name": "b"} | engine]
    # An engine this small is not silent for a second, unless it is stopped.
    health = {"interval": 0.2, "timeout": 1, "fails": 2}
    with running(tmp_path, engines, health=health) as fleet:
        await survives_everything(fleet, "tiny", tokens=6000, killed=["a"], stopped=["b"])
