"""A batch as a row of the database."""

from __future__ import annotations

from typing import Any

import msgspec

from stoker.api.errors import ApiError
from stoker.router.batches.objects import (
    Batch,
    BatchUsage,
    Counts,
    InputTokensDetails,
    OutputTokensDetails,
)
from stoker.router.storage import Row, Transaction

_TIMES = (
    "in_progress_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)
_SHOWN = (
    *("id", "status", "endpoint", "input_file_id", "completion_window", "created_at"),
    *("expires_at", "model", "output_file_id", "error_file_id"),
    *_TIMES,
)
_COLUMNS = (
    *_SHOWN,
    *("metadata", "errors", "total", "completed", "failed"),
    *("input_tokens", "cached_tokens", "output_tokens"),
)
SELECT = f"SELECT {', '.join(_COLUMNS)} FROM batches"


def set_status(tx: Transaction, batch_id: str, status: str) -> None:
    """Change a batch's status, and note when."""
    column = f"{status}_at"
    assert column in _TIMES
    tx.execute(
        f"UPDATE batches SET status = ?, {column} = ? WHERE id = ?",
        (status, int(tx.now()), batch_id),
    )


def find(tx: Transaction, batch_id: str, owner: str | None = None, lock: str = "") -> Batch:
    """A batch, if it is `owner`'s (None: whose it may be). Raises `ApiError` 404."""
    row = tx.row(f"{SELECT} WHERE id = ? AND owner = COALESCE(?, owner){lock}", (batch_id, owner))
    if row is None:
        raise ApiError(
            404,
            f"There is no batch with the id {batch_id[:128]!r}.",
            param="batch_id",
            code="not_found",
        )
    return batch_of(row)


def batch_of(row: Row) -> Batch:
    """The batch that `SELECT` found."""
    value = dict(zip(_COLUMNS, row, strict=True))
    metadata, errors = value["metadata"], value["errors"]
    return Batch(
        request_counts=Counts(value["total"], value["completed"], value["failed"]),
        usage=BatchUsage(
            value["input_tokens"],
            InputTokensDetails(value["cached_tokens"]),
            value["output_tokens"],
            OutputTokensDetails(),
            value["input_tokens"] + value["output_tokens"],
        ),
        metadata=None if metadata is None else msgspec.json.decode(metadata),
        errors=None if errors is None else msgspec.json.decode(errors),
        **{name: value[name] for name in _SHOWN},
    )


def to_json(value: Any) -> str | None:
    """As a column has it."""
    return None if value is None else msgspec.json.encode(value).decode()
