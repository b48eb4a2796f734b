"""Models from the Hugging Face hub: one GGUF file, or the files that a checkpoint needs.

The hub's library lists the files and knows the user's token and endpoint (`HF_TOKEN`,
`HF_ENDPOINT`); the files themselves come through `transfer`, which verifies every byte.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from stoker.errors import DownloadFailed, ModelNotFound, UnsupportedModel
from stoker.model.store.names import HubModel
from stoker.model.store.progress import Progress
from stoker.model.store.transfer import Access, Checksum, download

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

_INDEX = "model.safetensors.index.json"
_BESIDE_WEIGHTS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
)


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository at one commit."""

    path: str
    size: int
    checksum: Checksum


def fetch_hub_model(model: HubModel, directory: Path, progress: Progress) -> Path:
    """The model in `directory`: its GGUF file, or `directory` itself for a checkpoint.

    Raises `ModelNotFound`, `UnsupportedModel` (no weights that we read) or `DownloadFailed`.
    """
    from huggingface_hub import get_token, hf_hub_url

    info = _ask_hub(model.repo)
    chosen = choose_files(model, [_file(sibling) for sibling in info.siblings or []])
    headers = {"User-Agent": "stoker"}
    if token := get_token():
        headers["Authorization"] = f"Bearer {token}"
    access = Access(headers)
    for file in chosen:
        download(
            hf_hub_url(model.repo, file.path, revision=info.sha),
            directory / file.path,
            size=file.size,
            checksum=file.checksum,
            access=access,
            progress=progress,
        )
    _remove_others(directory, {directory / file.path for file in chosen})
    if len(chosen) == 1 and chosen[0].path.endswith(".gguf"):
        return directory / chosen[0].path
    return directory


def choose_files(model: HubModel, files: list[HubFile]) -> list[HubFile]:
    """The files of a repository that running the model takes.

    Raises `ModelNotFound` with the names to choose from, or `UnsupportedModel`.
    """
    by_path = {file.path: file for file in files if _is_plain(file.path)}
    ggufs = sorted(path for path in by_path if path.endswith(".gguf"))
    if model.file is not None:
        if model.file not in by_path:
            raise ModelNotFound(
                f"hf:{model.repo} has no file {model.file!r}; its GGUF files are: "
                f"{', '.join(ggufs) or 'none'}"
            )
        return [by_path[model.file]]
    weights = [path for path in by_path if fnmatch.fnmatchcase(path, "model*.safetensors")]
    if weights:
        if _INDEX in by_path:
            weights = [path for path in weights if path != "model.safetensors"] + [_INDEX]
        beside = [
            path
            for path in by_path
            if any(fnmatch.fnmatchcase(path, pattern) for pattern in _BESIDE_WEIGHTS)
        ]
        return [by_path[path] for path in [*beside, *sorted(weights)]]
    if len(ggufs) == 1:
        return [by_path[ggufs[0]]]
    if ggufs:
        raise ModelNotFound(
            f"hf:{model.repo} has {len(ggufs)} GGUF files; name one, as in "
            f"hf:{model.repo}:{ggufs[0]}. They are: {', '.join(ggufs)}"
        )
    raise UnsupportedModel(
        f"hf:{model.repo} has neither safetensors nor GGUF weights, which are all that Stoker reads"
    )


def _remove_others(directory: Path, wanted: set[Path]) -> None:
    """Delete what an interrupted pull of another commit has left."""
    for path in list(directory.rglob("*")):
        if path.is_file() and path not in wanted:
            path.unlink()


def _is_plain(path: str) -> bool:
    """Whether a path stays inside the directory it is put in; the listing is not trusted."""
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts and "\\" not in path


def _file(sibling: RepoSibling) -> HubFile:
    if sibling.lfs is not None:
        checksum = Checksum(sibling.lfs.sha256)
        return HubFile(sibling.rfilename, sibling.lfs.size, checksum)
    if sibling.size is None or sibling.blob_id is None:
        raise DownloadFailed(f"the hub tells no size and checksum of {sibling.rfilename}")
    return HubFile(sibling.rfilename, sibling.size, Checksum(sibling.blob_id, git_blob=True))


def _ask_hub(repo: str) -> ModelInfo:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    try:
        return HfApi(library_name="stoker").model_info(repo, files_metadata=True)
    except GatedRepoError as error:
        raise ModelNotFound(
            f"hf:{repo} is gated: accept its terms on the hub and set HF_TOKEN"
        ) from error
    except HfHubHTTPError as error:
        # The hub says 401 for what it does not show to strangers, whether it exists or not.
        if error.response.status_code in (401, 403, 404):
            raise ModelNotFound(
                f"there is no repository {repo!r} on the hub, or it is private: check its name, "
                "or set HF_TOKEN"
            ) from error
        raise DownloadFailed(_unanswered(repo, error)) from error
    except Exception as error:  # the library's HTTP client differs between its versions
        raise DownloadFailed(_unanswered(repo, error)) from error


def _unanswered(repo: str, error: Exception) -> str:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return f"the hub could not be asked for {repo!r}: {reason}"
