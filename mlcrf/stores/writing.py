"""Write files atomically, on a disk or in an object store."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlcrf import atomic
from mlcrf.errors import MlcrfError
from mlcrf.stores.drivers import PAUSES_S, reason, system
from mlcrf.stores.stored import Stored


@contextmanager
def replacing(place: Path | Stored) -> Iterator[Path]:
    """Replace a file as `mlcrf.atomic` does; for a store, write a local file and upload it.

    Raises:
        MlcrfError: it cannot be written or uploaded; after a failed upload the local file is kept.
    """
    if isinstance(place, Path):
        with atomic.replacing(place) as temporary:
            yield temporary
        return
    folder, is_kept = Path(tempfile.mkdtemp(prefix="mlcrf-")), False
    try:
        try:
            yield folder / place.name
        except OSError as error:
            raise MlcrfError(
                f"{folder}: cannot be written: {error.strerror or error}; set TMPDIR to a folder "
                "with space"
            ) from error
        try:
            _send(folder / place.name, place)
        except Exception as error:
            is_kept = True
            raise MlcrfError(
                f"{place}: cannot be written: {reason(error)}; the content is in "
                f"{folder / place.name}"
            ) from error
    finally:
        if not is_kept:
            shutil.rmtree(folder)


def write_text(place: Path | Stored, content: str) -> None:
    """Write a text file as UTF-8 with line feeds."""
    with replacing(place) as temporary:
        temporary.write_bytes(content.encode("utf-8"))


def _send(file: Path, place: Stored) -> None:
    for pause_s in (*PAUSES_S, None):
        try:
            system(place.scheme).put_file(str(file), place.url)
        except Exception:  # as above
            if pause_s is None:
                raise
            time.sleep(pause_s)
        else:
            return
