"""Answers are kept, once each, in order, by whom and when; on SQLite and on PostgreSQL."""

import hashlib
import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy

from mlcrf.errors import DatabaseError, DataError, SettingsError
from mlcrf.review.answers import Board
from mlcrf.review.connections import parse_url
from mlcrf.review.database import ReviewDatabase, Stamped
from mlcrf.review.photos import PhotoCopies, find_photos, scan_folder
from tests.data.readers.test_parquet_images import make_parquet
from tests.data.readers.test_webdataset import make_tar
from tests.review.conftest import make_folder, new_request

ODD = "a/50% <b>\n\"ü\udcff'.png"


def stamped(path: str, content: int, stamp: str = "1") -> Stamped:
    return Stamped(path, stamp, f"{content:064x}")


def board(database: ReviewDatabase) -> Board:
    result = Board()
    result.tell(database.since(0))
    return result


def test_answers_are_a_log_with_who_and_when(url: str) -> None:
    """Every event stays; the last of each person holds; time is UTC."""
    database = ReviewDatabase(url)
    (photo,), _ = database.register("/photos", [stamped("1.jpg", 1)])
    before = datetime.now(UTC) - timedelta(seconds=1)
    for value in (1, 0, -1):
        database.add(photo, {"sea": value}, "anna", new_request())
    database.add(photo, {"sea": 1, "sky": 0}, "ben", new_request())
    database.close()
    database = ReviewDatabase(url)
    events = list(database.since(0))
    assert [(one.label, one.value, one.person) for one in events] == [
        ("sea", 1, "anna"),
        ("sea", 0, "anna"),
        ("sea", -1, "anna"),
        ("sea", 1, "ben"),
        ("sky", 0, "ben"),
    ]
    assert [one.id for one in events] == sorted({one.id for one in events})
    assert all(before <= one.at <= datetime.now(UTC) for one in events)
    verdicts = board(database).verdicts(photo)
    assert verdicts["sea"].votes["anna"].value == -1 and verdicts["sea"].value == 1
    assert not verdicts["sea"].is_conflict
    database.add(photo, {"sea": 0}, "anna", new_request())
    verdict = board(database).verdicts(photo)["sea"]
    assert verdict.is_conflict and verdict.value == -1
    assert {who: vote.value for who, vote in verdict.votes.items()} == {"anna": 0, "ben": 1}
    database.close()


def test_the_same_request_is_written_once(url: str) -> None:
    """A request sent again after a lost reply, from many threads at once, is one answer."""
    database = ReviewDatabase(url)
    (photo,), _ = database.register("/photos", [stamped("1.jpg", 1)])
    with ThreadPoolExecutor(8) as workers:
        results = list(
            workers.map(lambda _: database.add(photo, {"sea": 1}, "anna", "same"), range(16))
        )
    assert len({one.id for result in results for one in result}) == 1
    assert len(list(database.since(0))) == 1
    database.close()


def test_answers_of_several_threads_and_servers_are_all_there_once(url: str) -> None:
    """Two connections, eight threads, four hundred answers: none lost, none doubled."""
    databases = [ReviewDatabase(url), ReviewDatabase(url)]
    numbers, _ = databases[0].register("/photos", [stamped(f"{n}.jpg", n) for n in range(40)])
    acts = [(photo, f"l{label}") for photo in numbers for label in range(10)]

    def answer(at: int) -> None:
        photo, label = acts[at]
        databases[at % 2].add(photo, {label: at % 2}, f"p{at % 3}", new_request())

    with ThreadPoolExecutor(8) as workers:
        list(workers.map(answer, range(len(acts))))
    found = [(one.photo, one.label) for one in databases[1].since(0)]
    assert sorted(found) == sorted(acts)
    for database in databases:
        database.close()


def test_undo_goes_back_step_by_step(url: str) -> None:
    """The last act of a person, whole, and what held before holds again; the log only grows."""
    database = ReviewDatabase(url)
    (one, other), _ = database.register("/photos", [stamped("1.jpg", 1), stamped("2.jpg", 2)])
    database.add(one, {"sea": 1}, "anna", "r1")
    database.add(one, {"sea": 0, "sky": 1}, "anna", "r2")
    database.add(one, {"sea": 1}, "ben", "r3")
    database.add(other, {"sea": 1}, "anna", "r4")
    taken = database.undo("anna", "u1", {one})  # the other photo is of another folder
    assert {(a.label, a.value) for a in taken} == {("sea", 1), ("sky", None)}
    assert database.undo("anna", "u1", {one}) == taken  # sent twice
    verdicts = board(database).verdicts(one)
    assert verdicts["sea"].votes["anna"].value == 1 and "sky" not in verdicts
    assert [a.value for a in database.undo("anna", "u2", {one})] == [None]
    assert database.undo("anna", "u3", {one}) == []
    assert board(database).verdicts(one)["sea"].votes["ben"].value == 1
    assert len(list(database.since(0))) == 8
    database.close()


def test_redo_takes_undos_back_until_the_next_answer(url: str) -> None:
    """The last undone first, each once, also after an undo of a redo; an answer ends it."""
    database = ReviewDatabase(url)
    (photo,), _ = database.register("/photos", [stamped("1.jpg", 1)])

    def values() -> dict[str, int]:
        return {name: verdict.value for name, verdict in board(database).verdicts(photo).items()}

    def go(*acts: str) -> None:
        for name in acts:
            getattr(database, name)("anna", new_request(), {photo})

    database.add(photo, {"sea": 1, "sky": 0}, "anna", new_request())
    database.add(photo, {"sea": None}, "anna", new_request())
    database.add(photo, {"sky": 1}, "ben", new_request())
    assert "sea" not in values()
    go("undo", "undo")
    assert values() == {"sky": 1}
    first = database.redo("anna", "same", {photo})
    assert {(one.label, one.value) for one in first} == {("sea", 1), ("sky", 0)}
    assert database.redo("anna", "same", {photo}) == first
    go("undo", "redo")
    assert values() == {"sea": 1, "sky": -1}
    go("redo")
    assert values() == {"sky": -1}
    assert database.redo("anna", new_request(), {photo}) == []
    go("undo")
    database.add(photo, {"bird": 1}, "anna", new_request())
    assert database.redo("anna", new_request(), {photo}) == []
    go("undo")
    assert values() == {"sea": 1, "sky": -1}
    database.close()


def test_undo_at_the_same_moment_takes_back_different_answers(url: str) -> None:
    """Eight undos at once take back eight answers."""
    database = ReviewDatabase(url)
    (photo,), _ = database.register("/photos", [stamped("1.jpg", 1)])
    for at in range(10):
        database.add(photo, {f"l{at}": 1}, "anna", new_request())
    with ThreadPoolExecutor(4) as workers:
        list(workers.map(lambda _: database.undo("anna", new_request(), {photo}), range(8)))
    assert sorted(board(database).verdicts(photo)) == ["l0", "l1"]
    database.close()


def test_photos_are_known_by_content_then_by_place(url: str) -> None:
    """Moved: the same. Edited in its place: the same. Replaced by another that was here: that."""
    database = ReviewDatabase(url)
    first = [stamped("1.jpg", 1), stamped(ODD, 2), stamped("copy.jpg", 1), stamped("4.jpg", 4)]
    (a, b, copy, d), edited = database.register("/photos", first)
    assert a == copy and len({a, b, d}) == 3 and edited == 0
    assert set(database.stamps("/photos")) == {file.path for file in first}
    assert database.stamps("/photos")[ODD] == first[1]
    # 1 and its copy are gone to another folder, 4 stands where 1 was, odd one was edited
    later = [stamped("1.jpg", 4, "2"), stamped(ODD, 20, "2"), stamped("new.jpg", 5)]
    (was_d, was_b, new), edited = database.register("/photos", later)
    assert (was_d, was_b, edited) == (d, b, 1) and new not in (a, b, d)
    moved, edited = database.register("/elsewhere", [stamped("x/1.jpg", 1), stamped("1.jpg", 9)])
    assert moved[0] == a and moved[1] not in (a, b, d, new) and edited == 0
    # the content that the edited one had before is still it
    again, _ = database.register("/elsewhere", [stamped("old.jpg", 2)])
    assert again == [b]
    assert database.folders() == ["/elsewhere", "/photos"]
    database.close()


def test_several_open_a_new_database_at_once(url: str) -> None:
    """Tables are made once, photos are registered once."""
    files = [stamped(f"{n}.jpg", n) for n in range(50)]

    def start(_: int) -> list[int]:
        database = ReviewDatabase(url)
        numbers, _ = database.register("/photos", files)
        database.close()
        return numbers

    with ThreadPoolExecutor(4) as workers:
        results = list(workers.map(start, range(4)))
    assert all(result == results[0] for result in results)
    assert len(set(results[0])) == 50


# the tables of version 1 with a photo and an answer; {id} is the type of numbers that count up
_VERSION_1 = """
CREATE TABLE review_facts (name VARCHAR PRIMARY KEY, value VARCHAR NOT NULL);
CREATE TABLE review_photos (id {id} PRIMARY KEY, since {time} NOT NULL);
CREATE TABLE review_contents (sha256 VARCHAR(64) PRIMARY KEY,
    photo BIGINT NOT NULL REFERENCES review_photos (id));
CREATE TABLE review_places (folder VARCHAR, path VARCHAR,
    sha256 VARCHAR(64) NOT NULL REFERENCES review_contents (sha256),
    size BIGINT NOT NULL, mtime_ns BIGINT NOT NULL, PRIMARY KEY (folder, path));
CREATE TABLE review_answers (id {id} PRIMARY KEY,
    photo BIGINT NOT NULL REFERENCES review_photos (id), label VARCHAR NOT NULL, value INTEGER,
    person VARCHAR NOT NULL, at {time} NOT NULL, request VARCHAR(64) NOT NULL,
    undoes BIGINT UNIQUE REFERENCES review_answers (id),
    CHECK (value IN (-1, 0, 1)), UNIQUE (request, photo, label));
INSERT INTO review_facts VALUES ('version', '1');
INSERT INTO review_photos (since) VALUES ('2026-01-01 00:00:00');
INSERT INTO review_contents VALUES ('{sha256}', 1);
INSERT INTO review_places VALUES ('/photos', '1.jpg', '{sha256}', 10, 1);
INSERT INTO review_answers (photo, label, value, person, at, request)
    VALUES (1, 'sea', 1, 'anna', '2026-01-01 00:00:00', 'r')
"""


def test_a_database_of_version_1_is_brought_up_to_date(url: str) -> None:
    """Photos and answers stay; files are read once more, since they had no full stamp."""
    is_sqlite = url.startswith("sqlite")
    file = stamped("1.jpg", 7)
    kinds = ("INTEGER", "DATETIME") if is_sqlite else ("BIGSERIAL", "TIMESTAMP WITH TIME ZONE")
    first = _VERSION_1.format(id=kinds[0], time=kinds[1], sha256=file.sha256)
    engine = sqlalchemy.create_engine(parse_url(url))
    with engine.begin() as connection:
        for statement in first.split(";"):
            connection.exec_driver_sql(statement)
    engine.dispose()
    with ThreadPoolExecutor(4) as workers:
        database, *others = workers.map(ReviewDatabase, [url] * 4)
    assert [(one.photo, one.label, one.value) for one in database.since(0)] == [(1, "sea", 1)]
    assert database.stamps("/photos")["1.jpg"].stamp == ""
    assert database.register("/photos", [file]) == ([1], 0)
    assert database.stamps("/photos") == {"1.jpg": file}
    assert len(database.undo("anna", "u", {1})) == len(database.redo("anna", "d", {1})) == 1
    for one in (database, *others):
        one.close()


def test_undo_gives_back_ones_own_earlier_answer(url: str) -> None:
    """Each photo of an act has its own back, whatever others have said in between."""
    database = ReviewDatabase(url)
    one, two = database.register("/photos", [stamped("1.jpg", 1), stamped("2.jpg", 2)])[0]
    database.add(one, {"sea": 1, "sky": 0}, "anna", "first")
    database.add_many({one: {"sea": -1}, two: {"sea": 1}}, "ben", "second")
    database.add_many({one: {"sea": 0}, two: {"sea": 0}}, "anna", "third")
    among = {one, two}
    undone = database.undo("anna", "fourth", among)
    assert {(event.photo, event.value) for event in undone} == {(one, 1), (two, None)}
    redone = database.redo("anna", "fifth", among)
    assert {(event.photo, event.value) for event in redone} == {(one, 0), (two, 0)}
    assert {event.redoes for event in redone} == {event.id for event in undone}
    database.close()


def test_a_database_is_opened_while_another_process_opens_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite does not wait for the write-ahead log of a new file: it is asked for again."""
    place = tmp_path / "tags.db"
    other = sqlite3.connect(place, isolation_level=None)
    other.execute("CREATE TABLE review_facts (name VARCHAR PRIMARY KEY, value VARCHAR NOT NULL)")
    other.execute("INSERT INTO review_facts VALUES ('version', '2')")
    other.execute("BEGIN EXCLUSIVE")
    pauses = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            other.execute("COMMIT")

    monkeypatch.setattr("mlcrf.review.connections.sleep", pause)
    monkeypatch.setattr("mlcrf.review.connections._BUSY_S", 0.0)
    ReviewDatabase(str(place)).close()
    assert pauses == sorted(pauses) and len(pauses) == 3
    other.execute("PRAGMA journal_mode = DELETE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(DatabaseError, match="cannot be opened: database is locked"):
        ReviewDatabase(str(place))
    other.close()


def test_an_answer_is_there_after_a_kill(tmp_path: Path) -> None:
    """A process that is killed by SIGKILL right after an answer leaves the answer."""
    script = (
        "import os, signal, sys\n"
        "from mlcrf.review.database import ReviewDatabase, Stamped\n"
        "d = ReviewDatabase(sys.argv[1])\n"
        "(p,), _ = d.register('/photos', [Stamped('1.jpg', '1', '0' * 64)])\n"
        "d.add(p, {'sea': 1}, 'anna', 'r')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    url = f"sqlite:///{tmp_path / 'tags.db'}"
    assert subprocess.run([sys.executable, "-c", script, url], check=False).returncode == -9
    database = ReviewDatabase(url)
    assert [one.value for one in database.since(0)] == [1]
    database.close()


@pytest.mark.parametrize(
    "url", ["mysql://host/db", "sqlite://", "postgresql://anna:secret@host", "http://[x/y", ""]
)
def test_urls_that_are_not_understood(url: str) -> None:
    """One line, without the password."""
    with pytest.raises(SettingsError, match="expected sqlite:///FILE") as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)


def test_databases_that_cannot_be_used(tmp_path: Path) -> None:
    """No folder, no database, somebody else's tables, a later version, no server: one line."""
    with pytest.raises(DatabaseError, match="cannot be opened: unable to open database file"):
        ReviewDatabase(f"sqlite:///{tmp_path}/no/tags.db")
    text = tmp_path / "text.db"
    text.write_text("this is no database" * 100)
    with pytest.raises(DatabaseError, match="file is not a database"):
        ReviewDatabase(str(text))
    other = tmp_path / "digikam4.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE Albums (id INTEGER)")
    before = other.read_bytes()
    with pytest.raises(DatabaseError, match=r"contains other tables \(Albums\)"):
        ReviewDatabase(str(other))
    with sqlite3.connect(other) as connection:
        assert [n for (n,) in connection.execute("SELECT name FROM sqlite_master")] == ["Albums"]
    assert len(other.read_bytes()) == len(before)
    ours = tmp_path / "tags.db"
    ReviewDatabase(str(ours)).close()
    with sqlite3.connect(ours) as connection:
        connection.execute("UPDATE review_facts SET value = '99'")
    with pytest.raises(DatabaseError, match="another version of mlcrf"):
        ReviewDatabase(str(ours))
    with pytest.raises(DatabaseError, match="no such file"):
        ReviewDatabase(str(tmp_path / "none.db"), must_exist=True)
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(DatabaseError, match="is a folder; name the database in it"):
        ReviewDatabase(str(tmp_path), must_exist=True)
    with pytest.raises(DatabaseError, match="cannot be opened") as caught:
        ReviewDatabase("postgresql://anna:secret@127.0.0.1:1/tags")
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_is_scanned_once(tmp_path: Path) -> None:
    """Odd names; a file that is unchanged is not read again; what is no file is a problem."""
    folder = make_folder(tmp_path / "p", ["1.png", ODD, "sub/ä.png"])
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    files, problems = scan_folder(folder, {})
    assert {file.path for file in files} == {"1.png", ODD, "sub/ä.png"}
    assert len(problems) == 1 and "gone.jpg: cannot be read" in problems[0]
    told = {file.path: replace(file, sha256="f" * 64) for file in files}
    again, _ = scan_folder(folder, told)
    assert {file.sha256 for file in again} == {"f" * 64}
    status = (folder / "1.png").stat()
    other = make_folder(tmp_path / "q", ["0.png", "1.png"]) / "1.png"
    other.write_bytes(other.read_bytes()[: status.st_size].ljust(status.st_size, b"\0"))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(folder / "1.png")  # of the same size and time
    unread = {file.path for file in scan_folder(folder, told)[0] if file.sha256 == "f" * 64}
    assert unread == {ODD, "sub/ä.png"}


def test_photos_within_tar_and_parquet_files(tmp_path: Path) -> None:
    """A folder of them is one of the photos in them, shown from there; a file alone is refused."""
    pictures = [make_folder(tmp_path / "loose", [f"{n}.png"]) / f"{n}.png" for n in "ab"]
    raw = [path.read_bytes() + bytes(at) for at, path in enumerate(pictures)]
    folder = tmp_path / "shards"
    tar = make_tar(folder / "a.tar", {"1.png": raw[0], "1.txt": b"sea"})
    make_parquet(folder / "b.parquet", [{"image": raw[1]}, {"image": None}])
    files, problems = scan_folder(folder, {})
    assert [file.path for file in files] == ["a.tar/1.png", "b.parquet/0000000.jpg"]
    assert [file.sha256 for file in files] == [hashlib.sha256(one).hexdigest() for one in raw]
    assert problems[0] == "left out: 1 other file (.txt)" and len(problems) == 2
    assert "b.parquet/0000001.jpg: cannot be read: column" in problems[1]
    told = {file.path: replace(file, sha256="f" * 64) for file in files}
    assert {file.sha256 for file in scan_folder(folder, told)[0]} == {"f" * 64}
    database = ReviewDatabase(f"sqlite:///{tmp_path / 'tags.db'}")
    photos, _ = find_photos(folder, database)
    database.close()
    assert len(photos) == 2
    shown = PhotoCopies(photos)
    assert all(shown.jpeg(at, "small")[:2] == b"\xff\xd8" for at in range(2))
    with pytest.raises(
        DataError, match=r"a\.tar: is a file, expected a folder; use the folder that"
    ):
        scan_folder(tar, {})
