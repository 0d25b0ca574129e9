"""Connections to the database of a review, SQLite or PostgreSQL."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from typing import Any

from sqlalchemy import Connection, create_engine, event, func, insert, inspect, select
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from mlcrf.errors import DatabaseError, SettingsError, reason_of
from mlcrf.review import schema
from mlcrf.review.schema import facts

_LOCK = 0x6D6C637266  # PostgreSQL: held while photos are registered or tables are created
_BUSY_S = 30.0  # that SQLite waits for another process
_TRIES = 8
_PAUSE_S = 0.02  # before the second try to open; doubled each time
_INSTALL = "pip install 'mlcrf[review]'"


def parse_url(text: str) -> URL:
    """Parse `sqlite:///tags.db`, `postgresql://user@host/name`, or the name of an SQLite file.

    Raises:
        SettingsError: anything else.
    """
    try:
        url = make_url(text if "://" in text else f"sqlite:///{text}")
    except (ArgumentError, ValueError):
        url = None
    kind = None if url is None else url.get_backend_name()
    if url is None or kind not in ("sqlite", "postgresql", "postgres") or not url.database:
        raise SettingsError(
            "database: expected sqlite:///FILE or postgresql://USER@HOST/DATABASE, "
            f"got {' '.join(text.rsplit('@', maxsplit=1)[-1].split())}"
        )
    return url if kind == "sqlite" else url.set(drivername="postgresql+psycopg")


class Connections:
    """Connections to a database with the tables of a review; safe to use from several threads.

    SQLite keeps a write-ahead log and syncs it with every transaction.

    Args:
        url: see `parse_url`.
        must_exist: refuse to create a new SQLite file.

    Attributes:
        is_sqlite: whether it is SQLite; else it is PostgreSQL.
        name: its URL without a password.
        address: of this database alone on this machine.

    Raises:
        SettingsError: the URL is not understood, or psycopg is missing.
        DatabaseError: it cannot be opened, has other tables, or another version.
    """

    def __init__(self, url: str, *, must_exist: bool) -> None:
        self._url = parse_url(url)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self.name = self._url.render_as_string(hide_password=True)
        place = self._url.set(password=None)
        if self.is_sqlite:
            place = place.set(database=str(Path(str(place.database)).resolve()))
        self.address = place.render_as_string()
        if must_exist and self.is_sqlite and not Path(str(self._url.database)).is_file():
            is_folder = Path(str(self._url.database)).is_dir()
            raise DatabaseError(
                f"{self.name}: is a folder; name the database in it"
                if is_folder
                else f"{self.name}: no such file; `mlcrf review` creates it"
            )
        self._engine = self._connect()
        with self.writing("cannot be opened", locked=True) as connection:
            self._make_tables(connection)

    def close(self) -> None:
        """Close all connections; with the last one SQLite removes its write-ahead log."""
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield a connection to read with.

        Raises:
            DatabaseError: it cannot be read.
        """
        with self._errors("cannot be read"), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self, failure: str, *, locked: bool = False) -> Iterator[Connection]:
        """Yield a connection in a transaction, which is committed unless there is an error.

        SQLite is locked for others that write from the beginning.

        Args:
            failure: such as "cannot be written".
            locked: let PostgreSQL have one such transaction at a time, too.

        Raises:
            DatabaseError: it cannot be written; the cause is the error of SQLAlchemy.
        """
        with self._errors(failure), self._engine.begin() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            elif locked:
                connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
            yield connection

    def _connect(self) -> Engine:
        options: dict[str, Any] = {"connect_timeout": 10}
        if self.is_sqlite:
            options = {"timeout": _BUSY_S}
        try:
            engine = create_engine(self._url, connect_args=options, pool_pre_ping=True)
        except ImportError as error:
            raise SettingsError(f"{self.name}: needs psycopg: {_INSTALL}") from error
        if self.is_sqlite:
            event.listen(engine, "connect", _set_up_sqlite)
        return engine

    def _make_tables(self, connection: Connection) -> None:
        present = set(inspect(connection).get_table_names())
        if facts.name not in present:
            if self.is_sqlite and present:
                some = ", ".join(sorted(present)[:3])
                raise DatabaseError(
                    f"{self.name}: contains other tables ({some}); choose another file for --db"
                )
            facts.create(connection)
            connection.execute(insert(facts), {"name": "version", "value": schema.VERSION})
        version = connection.scalar(select(facts.c.value).where(facts.c.name == "version"))
        while version in schema.MIGRATIONS:
            for statement in schema.MIGRATIONS[version]:
                connection.exec_driver_sql(statement)
            version = str(int(version) + 1)
            connection.execute(facts.update().where(facts.c.name == "version"), {"value": version})
        if version != schema.VERSION:
            raise DatabaseError(
                f"{self.name}: made by another version of mlcrf (tables {version}, this one knows "
                f"{schema.VERSION}); update mlcrf, or choose another --db"
            )
        schema.METADATA.create_all(connection)

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            reason = reason_of(getattr(error, "orig", None) or error)
            raise DatabaseError(f"{self.name}: {what}: {reason}") from error


def _set_up_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    for attempt in range(_TRIES):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError:  # another one opens it: SQLite does not wait for this
            if attempt == _TRIES - 1:
                raise
            sleep(_PAUSE_S * 2**attempt)
    for pragma in ("synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")
