"""`GET /usage`: who used what, and what it cost."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import parse_qs

import msgspec

from stoker.api.errors import ApiError, bad_request, from_exception, unavailable
from stoker.errors import StokerError
from stoker.router.ledger import report, tables
from stoker.router.ledger.account import Account
from stoker.router.ledger.keeper import Keeper
from stoker.router.ledger.refusals import not_admin
from stoker.router.request import Request
from stoker.router.responder import Responder
from stoker.router.storage import Database
from stoker.router.wire import JSON, error_headers, own_headers

PATH = b"/usage"
_WORDS = frozenset(("by", "since", "until", "key"))


class UsageWork:
    """One `GET /usage` under way. A key sees its own usage, one with `admin` everybody's."""

    def __init__(
        self,
        request: Request,
        responder: Responder,
        account: Account,
        keeper: Keeper,
        database: Database,
    ) -> None:
        """Raises `ApiError` when the query is wrong or not allowed."""
        self._request = request
        self._responder = responder
        self._keeper = keeper
        self._database = database
        self._query = _read(request.target, account)
        self._task = asyncio.ensure_future(self._run())

    def cancel(self) -> None:
        self._task.cancel()

    def pause(self) -> None:
        """Nothing is written before the end."""

    def resume(self) -> None:
        """See `pause`."""

    async def _run(self) -> None:
        try:
            if not await self._keeper.flush():
                raise unavailable("The database cannot be reached.", code="no_database")
            rows = await tables.read_usage(self._database, self._query)
        except StokerError as failed:
            error = from_exception(failed)
            headers = error_headers(error) + own_headers(self._request.id, "refused")
            self._responder.respond(error.status, headers, error.body())
            return
        body = msgspec.json.encode(report.as_data(self._query, rows))
        own = own_headers(self._request.id, "answered by the router")
        self._responder.respond(200, [JSON, *own], body)


def _read(target: bytes, account: Account) -> tables.UsageQuery:
    words = parse_qs(target.partition(b"?")[2].decode("ascii", "replace"), keep_blank_values=True)
    for name in words:
        if name not in _WORDS:
            raise _unknown(name)
    given = {name: values[-1] for name, values in words.items()}
    if not account.limits.admin:
        if given.get("key", account.name) != account.name:
            raise not_admin()
        given["key"] = account.name
    return report.read_query(**given, now=time.time())


def _unknown(name: str) -> ApiError:
    return bad_request(f"No such parameter: {name}. There are by, since, until, key.", param=name)
