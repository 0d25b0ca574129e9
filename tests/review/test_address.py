"""The page's address is the same at the next start, and private."""

import socket
from pathlib import Path

import pytest

from mlcrf.review.address import address_file, listening
from mlcrf.review.database import ReviewDatabase


def start(kept: Path, port: int | None = None) -> tuple[int, str]:
    with listening("127.0.0.1", port, kept) as (listener, token):
        return listener.getsockname()[1], token


def test_port_and_token_stay(tmp_path: Path) -> None:
    """Kept for this user alone; a port that is taken gives way once, one that is named stays."""
    kept = tmp_path / "private" / "a.json"
    first = start(kept)
    assert start(kept) == first
    assert kept.stat().st_mode & 0o777 == 0o600 and kept.parent.stat().st_mode & 0o777 == 0o700
    with socket.create_server(("127.0.0.1", first[0])):
        port, token = start(kept)
    assert port != first[0] and token == first[1]
    assert start(kept) == first
    other = start(kept, 0)
    assert other[0] != first[0] and start(kept) == first
    named = start(kept, port)
    assert named == (port, token) and start(kept) == named
    kept.write_text("{}")
    assert start(kept)[1] != token
    assert kept.stat().st_mode & 0o777 == 0o600


def test_each_database_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However its file is named."""
    monkeypatch.chdir(tmp_path)
    files = []
    for name in ("a.db", f"sqlite:///{tmp_path}/a.db", "b.db"):
        database = ReviewDatabase(name)
        files.append(address_file(tmp_path, database.address))
        database.close()
    assert files[0] == files[1] != files[2]
