"""Where the router keeps what must outlive it: SQLite by default, PostgreSQL by URL.

`open_database` gives a `Database`; work on it is a function of one `Transaction`, run in a thread,
so that the event loop never waits for a disk. What is stored, and in which tables, is the concern
of the packages beside this one.
"""

from stoker.router.storage.base import Database, Row, Transaction, Value
from stoker.router.storage.url import open_database

__all__ = ["Database", "Row", "Transaction", "Value", "open_database"]
