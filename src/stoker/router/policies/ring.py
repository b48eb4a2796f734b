"""A consistent-hash ring (Karger et al., 1997) with virtual nodes."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from hashlib import blake2b

VIRTUAL_NODES = 128


def stable_hash(key: str) -> int:
    """64 bits of `key` that are the same in every process and on every machine."""
    digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


class HashRing:
    """Names on a ring, many times each; a key belongs to the names that follow its own hash.

    A name added or removed moves only the keys that come to it or leave it, about one in n.
    """

    def __init__(self) -> None:
        self._points: list[tuple[int, str]] = []
        self._names: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def add(self, name: str) -> None:
        if name not in self._names:
            self._names.add(name)
            for number in range(VIRTUAL_NODES):
                insort(self._points, (stable_hash(f"{name}#{number}"), name))

    def remove(self, name: str) -> None:
        if name in self._names:
            self._names.discard(name)
            self._points = [point for point in self._points if point[1] != name]

    def walk(self, key: str) -> Iterator[str]:
        """Every name once, in the order in which `key` prefers them."""
        points = self._points
        start = bisect_left(points, (stable_hash(key), ""))
        seen: set[str] = set()
        for step in range(len(points)):
            name = points[(start + step) % len(points)][1]
            if name not in seen:
                seen.add(name)
                yield name
                if len(seen) == len(self._names):
                    return
