"""The database of a review: its photos, and an append-only log of answers."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Table, func, insert, select
from sqlalchemy.exc import IntegrityError

from mlcrf.errors import DatabaseError, SettingsError
from mlcrf.review.answers import VALUES, Answer
from mlcrf.review.connections import Connections
from mlcrf.review.schema import answers, contents, facts, photos, places, tags
from mlcrf.review.tags import TagEvent

_OVERLAP = 256  # events read again, since PostgreSQL may show later events first
_TRIES = 8  # to append, while another process writes the same


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


class ReviewDatabase:
    """Photos and answers; safe to use from several threads and processes at once.

    SQLite keeps a write-ahead log and syncs it with every answer, so that neither a kill nor a
    power failure loses an acknowledged answer.

    Args:
        url: see `mlcrf.review.connections.parse_url`.
        must_exist: refuse to create a new SQLite file.

    Raises:
        SettingsError: the URL is not understood, or psycopg is missing.
        DatabaseError: it cannot be opened, has other tables, or another version.
    """

    def __init__(self, url: str, *, must_exist: bool = False) -> None:
        self._connections = Connections(url, must_exist=must_exist)
        self.name, self.address = self._connections.name, self._connections.address

    def close(self) -> None:
        """Close all connections; with the last one SQLite removes its write-ahead log."""
        self._connections.close()

    def ping(self) -> None:
        """Read one row, to check that the database can be reached.

        Raises:
            DatabaseError: it cannot be read.
        """
        with self._connections.reading() as connection:
            connection.execute(select(facts.c.value).limit(1))

    def folders(self) -> list[str]:
        """Return every folder whose photos were reviewed."""
        query = select(places.c.folder).distinct().order_by(places.c.folder)
        with self._connections.reading() as connection:
            return list(connection.scalars(query))

    def stamps(self, folder: str) -> dict[str, Stamped]:
        """Return stamp and SHA-256 of each file of a folder when it was last seen, by path."""
        query = select(places).where(places.c.folder == folder)
        with self._connections.reading() as connection:
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
        with self._connections.writing("cannot be written", locked=True) as connection:
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
        overlap = 0 if self._connections.is_sqlite else _OVERLAP
        query = select(answers).where(answers.c.id > last_id - overlap).order_by(answers.c.id)
        with self._connections.reading() as connection:
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
        with self._connections.reading() as connection:
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
                failure = "the answer was not saved"
                with self._connections.writing(failure, locked=locked) as connection:
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

    @staticmethod
    def _new_photos(connection: Connection, number: int) -> list[int]:
        if not number:
            return []
        rows = [{"since": datetime.now(UTC)}] * number
        return list(connection.scalars(insert(photos).returning(photos.c.id), rows))


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
