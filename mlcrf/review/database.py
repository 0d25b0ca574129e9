"""The database of a review: its photos, and an append-only log of answers."""

import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import sleep
from typing import Any

from sqlalchemy import Connection, Table, create_engine, event, func, insert, inspect, select
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError

from mlcrf.errors import DatabaseError, SettingsError, reason_of
from mlcrf.review import schema
from mlcrf.review.answers import VALUES, Answer
from mlcrf.review.schema import answers, contents, facts, photos, places, tags
from mlcrf.review.tags import TagEvent

_LOCK = 0x6D6C637266  # PostgreSQL: held while photos are registered or tables are created
_OVERLAP = 256  # events read again, since PostgreSQL may show later events first
_BUSY_S = 30.0  # that SQLite waits for another process
_TRIES = 8
_PAUSE_S = 0.02  # before the second try to open; doubled each time


@dataclass(frozen=True)
class Stamped:
    """The stamp and SHA-256 of an image file when it was last seen.

    Attributes:
        path: relative to the folder, separated by `/`; bytes that are not UTF-8 are escaped.
        stamp: see `mlcrf.images.image.Stamp.version`.
    """

    path: str
    stamp: str
    sha256: str


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


class ReviewDatabase:
    """Photos and answers; safe to use from several threads and processes at once.

    SQLite keeps a write-ahead log and syncs it with every answer, so that neither a kill nor a
    power failure loses an acknowledged answer.

    Args:
        url: see `parse_url`.
        must_exist: refuse to create a new SQLite file.

    Raises:
        SettingsError: the URL is not understood, or psycopg is missing.
        DatabaseError: it cannot be opened, has other tables, or another version.
    """

    def __init__(self, url: str, *, must_exist: bool = False) -> None:
        self._url = parse_url(url)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self.name = self._url.render_as_string(hide_password=True)
        place = self._url.set(password=None)
        if self.is_sqlite:
            place = place.set(database=str(Path(str(place.database)).resolve()))
        self.address = place.render_as_string()  # of this database alone on this machine
        if must_exist and self.is_sqlite and not Path(str(self._url.database)).is_file():
            raise DatabaseError(f"{self.name}: no such file; `mlcrf review` creates it")
        self._engine = self._connect()
        with self._errors("cannot be opened"), self._engine.begin() as connection:
            self._begin(connection, locked=True)
            self._make_tables(connection)

    def close(self) -> None:
        """Close all connections; with the last one SQLite removes its write-ahead log."""
        self._engine.dispose()

    def ping(self) -> None:
        """Read one row, to check that the database can be reached.

        Raises:
            DatabaseError: it cannot be read.
        """
        with self._errors("cannot be read"), self._engine.connect() as connection:
            connection.execute(select(facts.c.value).limit(1))

    def folders(self) -> list[str]:
        """Return every folder whose photos were reviewed."""
        query = select(places.c.folder).distinct().order_by(places.c.folder)
        with self._errors("cannot be read"), self._engine.connect() as connection:
            return list(connection.scalars(query))

    def stamps(self, folder: str) -> dict[str, Stamped]:
        """Return stamp and SHA-256 of each file of a folder when it was last seen, by path."""
        query = select(places).where(places.c.folder == folder)
        with self._errors("cannot be read"), self._engine.connect() as connection:
            return {row.path: _stamped(row) for row in connection.execute(query)}

    def register(self, folder: str, files: Sequence[Stamped]) -> tuple[list[int], int]:
        """Return the photo number of each file; new photos are added.

        Files are matched to photos by content, wherever it was seen. New content at the path of a
        photo whose old content is gone counts as an edit of that photo.

        Args:
            folder: absolute path.
            files: all images in the folder.

        Returns:
            A number for each file, and the number of edited photos.
        """
        with self._errors("cannot be written"), self._engine.begin() as connection:
            self._begin(connection, locked=True)
            of_content = {row.sha256: row.photo for row in connection.execute(select(contents))}
            query = select(places).where(places.c.folder == folder)
            before = {row.path: _stamped(row) for row in connection.execute(query)}
            here = {file.sha256 for file in files}
            edited = 0
            fresh: list[str] = []
            linked: dict[str, int] = {}
            for file in files:
                if file.sha256 in of_content or file.sha256 in linked or file.sha256 in fresh:
                    continue
                old = before.get(file.path)
                if old is not None and old.sha256 not in here:
                    linked[file.sha256] = of_content[old.sha256]
                    edited += 1
                else:
                    fresh.append(file.sha256)
            linked |= zip(fresh, self._new_photos(connection, len(fresh)), strict=True)
            _insert(connection, contents, [{"sha256": s, "photo": p} for s, p in linked.items()])
            of_content |= linked
            moved = [file for file in files if before.get(file.path) != file]
            for file in moved:
                if file.path in before:
                    connection.execute(
                        places.delete().where(places.c.folder == folder, places.c.path == file.path)
                    )
            _insert(connection, places, [{"folder": folder} | asdict(file) for file in moved])
            return [of_content[file.sha256] for file in files], edited

    def add(
        self, photo: int, values: Mapping[str, int | None], person: str, request: str
    ) -> list[Answer]:
        """Append a person's answers about labels of one photo; see `add_many`."""
        return self.add_many({photo: values}, person, request)

    def add_many(
        self, values: Mapping[int, Mapping[str, int | None]], person: str, request: str
    ) -> list[Answer]:
        """Append a person's answers about labels of photos atomically, synced to disk.

        Args:
            values: photo -> label -> 1 yes, 0 no, -1 cannot tell, None no answer any more.
            request: identifier of this act; a repeated call changes nothing and returns the same.
        """
        for of_photo in values.values():
            if not of_photo or not all(value in VALUES for value in of_photo.values()):
                raise SettingsError(
                    f"answers: expected labels with 1, 0, -1 or None, got {dict(of_photo)}"
                )
        rows = [
            {"photo": photo, "label": label, "value": value, "person": person, "request": request}
            for photo, of_photo in values.items()
            for label, value in of_photo.items()
        ]
        return self._append(request, lambda connection: rows)

    def undo(self, person: str, request: str, among: Collection[int]) -> list[Answer]:
        """Undo a person's last act; return the new events, [] if there is nothing to undo.

        Args:
            among: photos to consider.
            request: as in `add`.
        """

        def rows(connection: Connection) -> list[dict[str, Any]]:
            taken_back = select(answers.c.undoes).where(answers.c.undoes.is_not(None))
            own = select(answers).where(answers.c.person == person).order_by(answers.c.id.desc())
            live = own.where(answers.c.undoes.is_(None), answers.c.id.not_in(taken_back))
            last = next((row for row in connection.execute(live) if row.photo in among), None)
            if last is None:
                return []
            earlier = answers.alias()
            before = (
                select(earlier.c.value)
                .where(
                    # not by the index of people, who may have given many answers
                    func.coalesce(earlier.c.person, "") == person,
                    earlier.c.photo == answers.c.photo,
                    earlier.c.label == answers.c.label,
                    earlier.c.id < answers.c.id,
                )
                .order_by(earlier.c.id.desc())
                .limit(1)
                .scalar_subquery()
            )
            act = live.where(answers.c.request == last.request).add_columns(before.label("before"))
            return [
                _again(row, request) | {"value": row.before, "undoes": row.id}
                for row in connection.execute(act)
            ]

        # locked, or another process could undo the last act between two queries
        return self._append(request, rows, locked=True)

    def redo(self, person: str, request: str, among: Collection[int]) -> list[Answer]:
        """Redo what a person undid last; return the new events, [] if there is nothing to redo.

        After an answer there is nothing to redo.

        Args:
            among, request: as in `undo`.
        """

        def rows(connection: Connection) -> list[dict[str, Any]]:
            redone = set(
                connection.scalars(select(answers.c.redoes).where(answers.c.redoes.is_not(None)))
            )
            own = select(answers).where(answers.c.person == person).order_by(answers.c.id.desc())
            acts = own.where(answers.c.redoes.is_(None))
            last = next(
                (
                    row
                    for row in connection.execute(acts)
                    if row.photo in among and row.id not in redone
                ),
                None,
            )
            if last is None or last.undoes is None:
                return []
            undone = answers.alias()
            act = (
                acts.where(answers.c.request == last.request)
                .join(undone, undone.c.id == answers.c.undoes)
                .add_columns(undone.c.value.label("undone"))
            )
            return [
                _again(row, request) | {"value": row.undone, "redoes": row.id}
                for row in connection.execute(act)
            ]

        return self._append(request, rows, locked=True)

    def since(self, last_id: int) -> Iterator[Answer]:
        """Yield the events after `last_id`, possibly with some earlier events."""
        overlap = 0 if self.is_sqlite else _OVERLAP
        query = select(answers).where(answers.c.id > last_id - overlap).order_by(answers.c.id)
        with self._errors("cannot be read"), self._engine.connect() as connection:
            yield from [_answer(row) for row in connection.execute(query)]

    def tag(
        self, key: str, name: str | None, into: str | None, person: str, request: str
    ) -> list[TagEvent]:
        """Append that a tag has a name, is part of another, or neither any more, synced to disk.

        Args:
            key, name, into: see `TagEvent`.
            request: as in `add`.
        """
        row = {"key": key, "name": name, "into": into, "person": person, "request": request}
        done = self._append_rows(tags, request, lambda connection: [row], locked=True)
        return [TagEvent(**one._mapping) for one in done]

    def tags_since(self, last_id: int) -> list[TagEvent]:
        """Return the events of tags after `last_id`."""
        query = select(tags).where(tags.c.id > last_id).order_by(tags.c.id)
        with self._errors("cannot be read"), self._engine.connect() as connection:
            return [TagEvent(**row._mapping) for row in connection.execute(query)]

    def _append(
        self,
        request: str,
        rows: Callable[[Connection], list[dict[str, Any]]],
        *,
        locked: bool = False,
    ) -> list[Answer]:
        return [_answer(row) for row in self._append_rows(answers, request, rows, locked=locked)]

    def _append_rows(
        self,
        table: Table,
        request: str,
        rows: Callable[[Connection], list[dict[str, Any]]],
        *,
        locked: bool,
    ) -> Sequence[Any]:
        for attempt in range(_TRIES):
            try:
                with self._errors("the answer was not saved"), self._engine.begin() as connection:
                    self._begin(connection, locked=locked)
                    done = connection.execute(
                        select(table).where(table.c.request == request).order_by(table.c.id)
                    ).all()
                    if not done:
                        at = datetime.now(UTC)
                        new = [row | {"at": at} for row in rows(connection)]
                        if not new:
                            return []
                        done = connection.execute(
                            insert(table).returning(table, sort_by_parameter_order=True), new
                        ).all()
                return done
            except DatabaseError as error:
                # another process wrote or undid the same at the same moment
                if not isinstance(error.__cause__, IntegrityError) or attempt == _TRIES - 1:
                    raise
        raise AssertionError("the last try returns or raises")

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

    def _begin(self, connection: Connection, *, locked: bool = False) -> None:
        """Take the write lock at the start of a transaction."""
        if self.is_sqlite:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        elif locked:
            connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))

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

    @staticmethod
    def _new_photos(connection: Connection, number: int) -> list[int]:
        if not number:
            return []
        rows = [{"since": datetime.now(UTC)}] * number
        return list(connection.scalars(insert(photos).returning(photos.c.id), rows))

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            reason = reason_of(getattr(error, "orig", None) or error)
            raise DatabaseError(f"{self.name}: {what}: {reason}") from error


_INSTALL = "pip install 'mlcrf[review]'"


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


def _insert(connection: Connection, table: Any, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(insert(table), rows)


def _again(row: Any, request: str) -> dict[str, Any]:
    """Return what an event has in common with the one that it takes back."""
    return {"photo": row.photo, "label": row.label, "person": row.person, "request": request}


def _stamped(row: Any) -> Stamped:
    return Stamped(row.path, row.stamp, row.sha256)


def _answer(row: Any) -> Answer:
    return Answer(**row._mapping)
