"""The tables of files and batches.

A file's content stands in the database too, in pieces, so that all routers of a fleet have it.
`owner` is the name of the API key that made a file or a batch, empty where none is needed; only
that key sees it. Times are seconds since 1970; ids begin with the time they were made at, so their
order is that of creation.
"""

from __future__ import annotations

import os
import time

SUBJECT = "batches"

STEPS = (
    """
    CREATE TABLE files (
        id TEXT PRIMARY KEY,
        created_at BIGINT NOT NULL,
        expires_at BIGINT,
        filename TEXT NOT NULL,
        purpose TEXT NOT NULL,
        size BIGINT NOT NULL,
        whole BIGINT NOT NULL,
        owner TEXT NOT NULL
    );
    CREATE TABLE file_pieces (
        file_id TEXT NOT NULL,
        number BIGINT NOT NULL,
        data BYTEA NOT NULL,
        PRIMARY KEY (file_id, number)
    );
    CREATE TABLE batches (
        id TEXT PRIMARY KEY,
        status TEXT NOT NULL,
        endpoint TEXT NOT NULL,
        input_file_id TEXT NOT NULL,
        completion_window TEXT NOT NULL,
        metadata TEXT,
        output_expires_after BIGINT,
        created_at BIGINT NOT NULL,
        expires_at BIGINT NOT NULL,
        in_progress_at BIGINT,
        finalizing_at BIGINT,
        completed_at BIGINT,
        failed_at BIGINT,
        expired_at BIGINT,
        cancelling_at BIGINT,
        cancelled_at BIGINT,
        errors TEXT,
        model TEXT,
        output_file_id TEXT,
        error_file_id TEXT,
        total BIGINT NOT NULL DEFAULT 0,
        completed BIGINT NOT NULL DEFAULT 0,
        failed BIGINT NOT NULL DEFAULT 0,
        input_tokens BIGINT NOT NULL DEFAULT 0,
        cached_tokens BIGINT NOT NULL DEFAULT 0,
        output_tokens BIGINT NOT NULL DEFAULT 0,
        owner TEXT NOT NULL,
        held_by TEXT,
        held_until DOUBLE PRECISION NOT NULL DEFAULT 0
    );
    CREATE INDEX batches_by_status ON batches (status);
    CREATE TABLE batch_lines (
        batch_id TEXT NOT NULL,
        number BIGINT NOT NULL,
        custom_id TEXT NOT NULL,
        model TEXT NOT NULL,
        body BYTEA NOT NULL,
        good BIGINT,
        result BYTEA,
        PRIMARY KEY (batch_id, number)
    )
    """,
)


def new_id(prefix: str) -> str:
    """An id that comes after those made before it, and cannot be guessed."""
    return f"{prefix}{time.time_ns():016x}{os.urandom(8).hex()}"
