"""The tables of a review, for SQLite and PostgreSQL."""

from datetime import UTC, datetime
from urllib.parse import quote_from_bytes, unquote_to_bytes

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)
from sqlalchemy.types import TypeDecorator

VERSION = "3"
# version -> statements that lead to the next version, for SQLite and PostgreSQL; new tables are
# created in any case
MIGRATIONS = {
    "1": (
        "ALTER TABLE review_places ADD COLUMN stamp VARCHAR NOT NULL DEFAULT ''",
        "ALTER TABLE review_places DROP COLUMN size",
        "ALTER TABLE review_places DROP COLUMN mtime_ns",
        "ALTER TABLE review_answers ADD COLUMN redoes BIGINT REFERENCES review_answers (id)",
        "CREATE UNIQUE INDEX review_redone_once ON review_answers (redoes)",
    ),
    "2": (),
}


class Moment(TypeDecorator[datetime]):
    """A time in UTC; SQLite stores no time zone, so it is added when read."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class FileName(TypeDecorator[str]):
    """A path as text for any database: bytes that are not UTF-8, and %, are stored as %XX."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return "".join(
            quote_from_bytes(one.encode("utf-8", "surrogateescape"), safe="")
            if one in "%\0" or "\ud800" <= one <= "\udfff"
            else one
            for one in value
        )

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else unquote_to_bytes(value).decode("utf-8", "surrogateescape")


METADATA = MetaData()
_NUMBER = BigInteger().with_variant(Integer, "sqlite")  # SQLite auto-increments only INTEGER

facts = Table(
    "review_facts",
    METADATA,
    Column("name", String, primary_key=True),
    Column("value", String, nullable=False),
)
photos = Table(
    "review_photos",
    METADATA,
    Column("id", _NUMBER, primary_key=True),
    Column("since", Moment, nullable=False),
)
# every content that a photo has had; an edited file remains the same photo
contents = Table(
    "review_contents",
    METADATA,
    Column("sha256", String(64), primary_key=True),
    Column("photo", ForeignKey(photos.c.id), nullable=False, index=True),
)
# the last path of each content
places = Table(
    "review_places",
    METADATA,
    Column("folder", FileName, primary_key=True),
    Column("path", FileName, primary_key=True),
    Column("sha256", ForeignKey(contents.c.sha256), nullable=False),
    Column("stamp", String, nullable=False),
)
answers = Table(
    "review_answers",
    METADATA,
    Column("id", _NUMBER, primary_key=True),
    Column("photo", ForeignKey(photos.c.id), nullable=False),
    Column("label", String, nullable=False),
    Column("value", Integer),
    Column("person", String, nullable=False),
    Column("at", Moment, nullable=False),
    Column("request", String(64), nullable=False),
    Column("undoes", ForeignKey("review_answers.id"), unique=True),
    Column("redoes", ForeignKey("review_answers.id")),
    CheckConstraint("value IN (-1, 0, 1)", name="review_value"),
    UniqueConstraint("request", "photo", "label", name="review_once"),
    Index("review_by_photo", "photo"),
    Index("review_by_person", "person"),
    Index("review_redone_once", "redoes", unique=True),
)
tags = Table(
    "review_tags",
    METADATA,
    Column("id", _NUMBER, primary_key=True),
    Column("key", String, nullable=False),
    Column("name", String),
    Column("into", String),
    Column("person", String, nullable=False),
    Column("at", Moment, nullable=False),
    Column("request", String(64), nullable=False),
    UniqueConstraint("request", "key", name="review_tag_once"),
)
