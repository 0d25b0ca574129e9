"""The port and token of a review's page, kept so that an open page finds its server again."""

import hashlib
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlcrf import atomic
from mlcrf.errors import SettingsError
from mlcrf.web import listen


class Address(BaseModel):
    """The port that the page was served on, and the secret that requests must present."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    port: int = Field(ge=1, le=65535)
    token: str = Field(pattern=r"^[0-9A-Za-z_-]{32,64}$")


def address_file(folder: Path, database: str) -> Path:
    """Return the file in a private folder that keeps the address of a database's page."""
    return folder / "review" / f"{hashlib.sha256(database.encode()).hexdigest()[:32]}.json"


@contextmanager
def listening(host: str, port: int | None, kept: Path) -> Iterator[tuple[socket.socket, str]]:
    """Listen for the page; yield the socket and the token, both as last time where possible.

    Args:
        port: None for the port of the last start, or a free one if another program has it; 0 for a
            free one.
        kept: file that keeps the address, readable by this user only.

    Raises:
        SettingsError: cannot listen on the address.
        MlcrfError: the file cannot be written.
    """
    before = _load(kept)
    token = secrets.token_urlsafe(24) if before is None else before.token
    with _listen(host, port, before) as listener:
        address = Address(port=listener.getsockname()[1], token=token)
        if before is None or (port and port != before.port):
            _save(kept, address)
        yield listener, token


def _listen(host: str, port: int | None, before: Address | None) -> socket.socket:
    if port is not None or before is None:
        return listen(host, port or 0)
    try:
        return listen(host, before.port)
    except SettingsError:
        return listen(host, 0)


def _load(path: Path) -> Address | None:
    try:
        return Address.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):  # none yet, of another user, or damaged
        return None


def _save(path: Path, address: Address) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    atomic.write_text(path, address.model_dump_json())
