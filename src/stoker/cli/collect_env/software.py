"""Python, Stoker and its kernels, packages, engines beside ours, and what the environment says."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from stoker import __version__
from stoker.cli.collect_env.programs import output_of

_PEERS = (
    *("vllm", "torch", "triton", "transformers", "xllamacpp", "llama-cpp-python"),
    *("openai", "anthropic", "langchain-openai", "pip"),
)
"""Packages that Stoker does not need, and that matter to what is done with it."""

_RELEVANT = re.compile(
    r"(STOKER|OTEL|OPENAI|ANTHROPIC|HF|HUGGINGFACE|VLLM|LLAMA|CUDA|NVIDIA|OMP|KMP|MKL|OPENBLAS|"
    r"MALLOC|PYTHON|XDG)_.+|PYTHON[A-Z]+|LD_PRELOAD|LD_LIBRARY_PATH|GLIBC_TUNABLES|"
    r"VIRTUAL_ENV|CONDA_PREFIX|LANG|LC_ALL|TMPDIR|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|"
    r"(HTTP|HTTPS|ALL|NO)_PROXY",
    re.IGNORECASE,
)
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|PWD|CREDENTIAL|AUTH|HEADERS|COOKIE", re.IGNORECASE)
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")
_SECRET_FIELD = re.compile(
    r"(?i)([?&;][^=&;\s]*(?:key|token|secret|pass|pwd|sig)[^=&;\s]*=)[^&;\s]+"
)
MASK = "***"


@dataclass(frozen=True, slots=True)
class Kernels:
    file: str | None
    sha256: str | None
    """The first digits: tells builds apart."""
    isas: tuple[str, ...]
    """Instruction sets that this machine can run, the one that is chosen last."""
    error: str | None
    """Why they cannot be loaded."""


@dataclass(frozen=True, slots=True)
class Software:
    stoker: str
    location: str
    python: str
    executable: str
    kernels: Kernels
    router: str | None
    """Whether its request path is native code (`make compiled`)."""
    packages: dict[str, str | None]
    """Versions of what Stoker needs; None: not installed."""
    peers: dict[str, str]
    """Versions, or places, of others that are here."""
    models: dict[str, int]
    """The models in the store, with their bytes."""
    environment: dict[str, str]


def software() -> Software:
    return Software(
        stoker=__version__,
        location=_shown(str(Path(__file__).parents[2])),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        executable=_shown(sys.executable),
        kernels=_kernels(),
        router=_router(),
        packages=_packages(),
        peers=_peers(),
        models=_models(),
        environment=environment(os.environ),
    )


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """What may matter of the environment, without the secrets in it."""
    return {
        name: MASK if _SECRET.search(name) and value else _masked(value)
        for name, value in sorted(variables.items())
        if _RELEVANT.fullmatch(name)
    }


def _masked(value: str) -> str:
    value = _USER_INFO.sub(f"{MASK}@", value)
    return _shown(_SECRET_FIELD.sub(rf"\1{MASK}", value))


def _shown(path: str) -> str:
    """A path without the name of its owner."""
    home = str(Path.home())
    return re.sub(rf"(?<![^:=]){re.escape(home)}(?=/|:|$)", "~", path) if home != "/" else path


def _router() -> str | None:
    spec = find_spec("stoker.router.exchange")
    if spec is None or spec.origin is None:
        return None
    return "Python" if spec.origin.endswith(".py") else "native code"


def _kernels() -> Kernels:
    try:
        from stoker import _kernels
    except ImportError as error:
        return Kernels(None, None, (), str(error))
    path = Path(_kernels.__file__)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return Kernels(path.name, digest, tuple(_kernels.available_isas()), None)


def _packages() -> dict[str, str | None]:
    names: list[str] = []
    try:
        requirements = requires("stoker") or []
    except PackageNotFoundError:  # run from its sources
        requirements = []
    for requirement in requirements:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        if name and name[0] not in names:
            names.append(name[0])
    return {name: _version(name) for name in sorted(names)}


def _peers() -> dict[str, str]:
    found = {name: told for name in _PEERS if (told := _version(name)) is not None}
    if "vllm" not in found and (path := shutil.which("vllm")) is not None:
        found["vllm"] = _vllm_of(Path(path))
    told = output_of("llama-server", "--version")
    if told is not None:
        line = next((line for line in told.splitlines() if line.startswith("version")), "")
        found["llama-server"] = line.removeprefix("version:").strip() or "unknown"
    return found


def _vllm_of(program: Path) -> str:
    """The version of the vLLM of another environment, from its files: asking it takes longer than
    all the rest."""
    place = program.resolve().parent.parent
    named = sorted(place.glob("lib/python3*/site-packages/vllm*-*.dist-info"))
    versions = [path.name.removesuffix(".dist-info").rpartition("-")[2] for path in named]
    return f"{versions[0] if versions else 'unknown'} in {_shown(str(place))}"


def _models() -> dict[str, int]:
    from stoker.errors import StokerError
    from stoker.model.store import Store

    try:
        return {model.name: model.nbytes for model in Store().models()}
    except (StokerError, OSError):
        return {}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
