"""List and watch pods, over the router's own connections.

https://kubernetes.io/docs/reference/using-api/api-concepts/: a list has a resource version; a
watch from it tells everything that happened since, until the server ends it, or says 410 because
that is too long ago.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from urllib.parse import quote, urlencode

import msgspec

from stoker import __version__
from stoker.router.answer import AwaitedAnswer
from stoker.router.kubernetes.access import Access
from stoker.router.kubernetes.errors import ApiAway, ApiRefused, VersionGone
from stoker.router.kubernetes.pods import Pod
from stoker.router.upstream import Pool, UpstreamFailure
from stoker.router.wire import join_headers

_CONNECT_S = 5.0
_LIST_S = 30.0
# The server ends a watch when it was asked to; one that lasts longer by so much has gone silent.
_GRACE_S = 15.0
_PAGE = 250
_LIMIT = 32 * 1024 * 1024
"""Bytes of one page of a list, or of one event."""


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _PodList(msgspec.Struct):
    metadata: _ListMeta = msgspec.field(default_factory=_ListMeta)
    items: list[Pod] = []


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct):
    """An error, as the API server tells it."""

    code: int = 0
    reason: str = ""
    message: str = ""


class _VersionOnly(msgspec.Struct):
    metadata: _ListMeta


class Change(msgspec.Struct, frozen=True):
    """What a watch tells: a pod as it is now, or was when it left; None for a bookmark, which
    tells only that everything up to `version` has been told."""

    version: str
    pod: Pod | None = None
    gone: bool = False


_decode_list = msgspec.json.Decoder(_PodList).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_pod = msgspec.json.Decoder(Pod).decode
_decode_status = msgspec.json.Decoder(_Status).decode
_decode_version = msgspec.json.Decoder(_VersionOnly).decode


class PodApi:
    """Pods of one namespace that a label selector picks."""

    def __init__(self, access: Access, selector: str) -> None:
        self._access = access
        self._selector = selector
        namespace = quote(access.namespace, safe="")
        self._path = f"{access.address.path}/api/v1/namespaces/{namespace}/pods"
        self._pool = Pool(access.address, connect_timeout=_CONNECT_S, tls=access.tls)

    async def list(self) -> tuple[list[Pod], str]:
        """Every pod, and the version to watch from. Raises `ApiAway`."""
        pods: list[Pod] = []
        more = ""
        while True:
            query = {"limit": str(_PAGE)} | ({"continue": more} if more else {})
            answer = await self._list_page(query)
            try:
                page = _decode_list(answer)
            except msgspec.MsgspecError as error:
                raise ApiAway(f"the answer is no list of pods ({error})") from None
            pods += page.items
            more = page.metadata.continue_
            if not more:
                return pods, page.metadata.resource_version

    async def _list_page(self, query: dict[str, str]) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(_LIST_S), aclosing(self._get(query)) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) > _LIMIT:
                        raise ApiAway(f"a list of more than {_LIMIT} bytes")
        except TimeoutError:
            raise ApiAway(f"no list of pods within {_LIST_S:g} s") from None
        return bytes(body)

    async def watch(self, version: str, seconds: float) -> AsyncGenerator[Change, None]:
        """What happens from `version` on, for so many seconds. Raises `VersionGone` when that is
        too long ago, `ApiAway` when the watch breaks off or goes silent."""
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(max(1, round(seconds))),
        }
        rest = b""
        try:
            async with asyncio.timeout(seconds + _GRACE_S), aclosing(self._get(query)) as chunks:
                async for chunk in chunks:
                    *lines, rest = (rest + chunk).split(b"\n")
                    if len(rest) > _LIMIT:
                        raise ApiAway(f"an event of more than {_LIMIT} bytes")
                    for line in lines:
                        if line.strip():
                            yield _change(line)
        except TimeoutError:
            raise ApiAway("the watch had gone silent") from None
        if rest.strip():
            raise ApiAway("the watch ended in the middle of an event")

    async def _get(self, query: dict[str, str]) -> AsyncGenerator[bytes, None]:
        """The body of an answer, as it comes."""
        target = f"{self._path}?{urlencode({'labelSelector': self._selector} | query)}"
        fields = {
            "host": self._access.address.host_header,
            "user-agent": f"stoker/{__version__}",
            "accept": "application/json",
            "connection": "close",
        }
        authorization = await self._access.credentials.authorization()
        if authorization is not None:
            fields["authorization"] = authorization
        pairs = [(name.encode(), value.encode("latin-1")) for name, value in fields.items()]
        request = f"GET {target} HTTP/1.1\r\n".encode("ascii") + join_headers(pairs) + b"\r\n"
        answer = AwaitedAnswer()
        connection = None
        try:
            # A connection each: they are few, and one left idle may be dead without a word.
            connection = await self._pool.open()
            connection.send(request, b"", answer, last=True)
            status = (await answer.head).status
            if status != 200:
                self._raise(status, await answer.whole())
            async for chunk in answer.chunks():
                yield chunk
        except UpstreamFailure as failure:
            raise ApiAway(f"{self._access.address.host_header}: {failure}") from None
        finally:
            if connection is not None and not answer.over:
                connection.abort()

    def _raise(self, status: int, body: bytes) -> None:
        try:
            message = _decode_status(body).message
        except msgspec.MsgspecError:
            message = body[:200].decode("utf-8", "replace")
        if status == 410:
            raise VersionGone(message)
        if status == 401:
            self._access.credentials.refused()
        if status == 403:
            message += " (the router's service account needs get, list and watch on pods)"
        raise ApiRefused(f"it answers {status}: {message}", status=status)


def _change(line: bytes) -> Change:
    try:
        event = _decode_event(line)
        if event.type == "BOOKMARK":
            return Change(_decode_version(event.object).metadata.resource_version)
        if event.type == "ERROR":
            status = _decode_status(event.object)
            if status.code == 410:
                raise VersionGone(status.message)
            raise ApiRefused(f"the watch failed: {status.message}", status=status.code)
        pod = _decode_pod(event.object)
    except msgspec.MsgspecError as error:
        raise ApiAway(f"an event that cannot be read ({error})") from None
    return Change(pod.metadata.resource_version, pod, gone=event.type == "DELETED")
