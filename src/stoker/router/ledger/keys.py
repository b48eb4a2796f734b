"""API keys: how they are made, and whose a presented one is.

A key is 256 random bits, so a plain SHA-256 of it tells nothing about it and needs no salt. Only
that hash is kept, in `stoker.yaml` or the database.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping

from stoker.router.config import KeyConfig, KeyLimits
from stoker.router.ledger.account import Account

_PREFIX = "sk-stoker-"
ANONYMOUS = "-"
"""Who asks without a key, where that is allowed."""


def new_key() -> str:
    """A key nobody has."""
    return _PREFIX + secrets.token_urlsafe(32)


def hash_of(key: str) -> str:
    """What is kept of a key: `sha256:` and 64 hexadecimal digits."""
    return "sha256:" + hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def digest_of(key: bytes) -> bytes:
    """What a presented key is looked up by; empty for no key."""
    return hashlib.sha256(key).digest() if key else b""


def presented(fields: Mapping[bytes, bytes]) -> bytes:
    """The key that a request brings, in OpenAI's way or Anthropic's; empty without one."""
    authorization = fields.get(b"authorization")
    if authorization is not None and authorization[:7].lower() == b"bearer ":
        return authorization[7:].strip()
    return fields.get(b"x-api-key", b"")


class Keyring:
    """The keys of the configuration and of the database, and the account of each."""

    def __init__(self) -> None:
        self.anonymous = Account(ANONYMOUS, KeyLimits(admin=True))
        self._accounts: dict[str, Account] = {}
        self.by_digest: dict[bytes, Account] = {}
        """The account of each key, by `digest_of` the key."""
        self._configured: tuple[KeyConfig, ...] = ()
        self._stored: tuple[KeyConfig, ...] = ()

    def __len__(self) -> int:
        return len(self.by_digest)

    def accounts(self) -> Iterable[Account]:
        return self._accounts.values()

    def account(self, name: str) -> Account | None:
        """The account of a key, by the key's name."""
        return self.anonymous if name == ANONYMOUS else self._accounts.get(name)

    def whose(self, key: bytes) -> Account | None:
        """The account of a presented key; None if it is not known.

        Looked up by its hash, so the time it takes tells nothing about other keys.
        """
        return self.by_digest.get(digest_of(key))

    def set_configured(self, keys: Iterable[KeyConfig]) -> None:
        """The keys in `stoker.yaml`; they go before stored ones of the same name."""
        self._configured = tuple(keys)
        self._index()

    def set_stored(self, keys: Iterable[KeyConfig]) -> bool:
        """The keys in the database that are not revoked; whether anything changed."""
        stored = tuple(keys)
        if stored == self._stored:
            return False
        self._stored = stored
        self._index()
        return True

    def _index(self) -> None:
        keys = {key.name: key for key in (*self._stored, *self._configured)}
        accounts = {}
        self.by_digest = {}
        for name, key in keys.items():
            account = self._accounts.get(name)
            if account is None:
                account = Account(name, key)
            elif account.limits != key:
                account.set_limits(key)
            accounts[name] = account
            self.by_digest[bytes.fromhex(key.hash.removeprefix("sha256:"))] = account
        self._accounts = accounts
