"""Every error a caller may see, in one tree.

::

    StokerError
    ├── InvalidRequest            the request is wrong; `param` names the field
    │   ├── ContextOverflow       prompt (+ max_tokens) does not fit the context
    │   └── TemplateError         the chat template refused the messages
    ├── ModelError                the model cannot be had or used
    │   ├── ModelNotFound         no such name, path or repository
    │   ├── DownloadFailed        it could not be fetched; the same command again resumes
    │   │   └── NoRoom            the disk is full
    │   ├── ModelCorrupt          truncated, wrong checksum, inconsistent metadata
    │   └── UnsupportedModel      an architecture or tensor type we cannot run
    ├── MemoryPlanError           it would not fit; carries the numbers and the flag
    ├── EngineOverloaded          admission said no; `retry_after` in seconds
    ├── EngineStopped             the engine has shut down or failed
    ├── StorageError              the router's database cannot be reached or used
    └── ConfigError               stoker.yaml is wrong; names the file, the line and the field

A message says what was wrong, what was expected and what to do.
"""

from __future__ import annotations


class StokerError(Exception):
    """Base of all errors raised on purpose by Stoker."""


class InvalidRequest(StokerError, ValueError):
    """A request that cannot be served as written.

    `param` is the name of the field at fault, as the caller wrote it.
    """

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class ContextOverflow(InvalidRequest):
    """The prompt, or the prompt plus the tokens asked for, exceeds the context."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message, param=param, code="context_length_exceeded")


class TemplateError(InvalidRequest):
    """The chat template raised, or there is none."""


class ModelError(StokerError):
    """A model that cannot be found, read or run."""


class ModelNotFound(ModelError):
    """No model of that name, path or repository."""


class DownloadFailed(ModelError):
    """A model that could not be fetched from where it is published."""


class NoRoom(DownloadFailed):
    """The disk has no room for a model."""


class ModelCorrupt(ModelError):
    """A model file that is truncated, inconsistent or fails its checksum."""


class UnsupportedModel(ModelError):
    """An architecture, tensor type or tokenizer kind that Stoker cannot run."""


class MemoryPlanError(StokerError):
    """The model, its context or its cache does not fit in memory."""


class EngineOverloaded(StokerError):
    """Admission refused the request; try again in `retry_after` seconds."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineStopped(StokerError):
    """The engine is shutting down, or its step loop has failed."""


class StorageError(StokerError):
    """The database that keeps files, batches, keys and usage cannot be reached or used."""


class ConfigError(StokerError):
    """A configuration that cannot be used as written."""


def why(error: Exception) -> str:
    """What an error says of itself; of a file, without the number and the path that Python adds."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
