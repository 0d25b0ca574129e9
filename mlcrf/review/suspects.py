"""Likely label errors that `mlcrf audit` found, as questions of a review."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mlcrf.data.problems import Problems
from mlcrf.data.table_files import Records, load_records
from mlcrf.errors import DataError
from mlcrf.images import as_image
from mlcrf.labels import composed
from mlcrf.review.photos import Photo

_COLUMNS = ("image", "label", "given", "p_others", "because")


@dataclass(frozen=True)
class SuspectRow:
    """One row of a table of suspects.

    Attributes:
        place: file and line, for messages.
        image: path of the image.
        given: 1 or 0, as annotated.
        p: P(label present | image, the other annotations).
        because: other annotations that speak against this one, as text; may be empty.
    """

    place: str
    image: Path
    label: str
    given: int
    p: float
    because: str


@dataclass(frozen=True)
class Suspect:
    """A row of a table of suspects, with the numbers of its photo and tag in the review."""

    photo: int
    tag: int
    row: SuspectRow


class Suspects:
    """The suspects of a review, in the order in which they are asked about."""

    def __init__(self, found: Sequence[Suspect] = ()) -> None:
        self._photos = torch.tensor([one.photo for one in found], dtype=torch.int64)
        self._tags = torch.tensor([one.tag for one in found], dtype=torch.int64)
        self._of_photo: dict[int, list[Suspect]] = {}
        for one in found:
            self._of_photo.setdefault(one.photo, []).append(one)

    def __len__(self) -> int:
        return len(self._photos)

    def of_photo(self, photo: int) -> list[Suspect]:
        """Return a photo's suspects in order."""
        return self._of_photo.get(photo, [])

    def count_settled(self, settled: Tensor) -> int:
        """Count the suspects that are settled.

        Args:
            settled: tags that are not asked about, because they are answered or retired (N, L).
        """
        return int(settled[self._photos, self._tags].sum())

    def urgency(self, settled: Tensor) -> Tensor:
        """Return a number for each photo, the largest for that of the next question (N,).

        It is 0 for photos with nothing left to ask.

        Args:
            settled: see `count_settled`.
        """
        rank = torch.arange(len(self), 0, -1, dtype=torch.float64)
        rank[settled[self._photos, self._tags]] = 0
        nothing = torch.zeros(len(settled), dtype=torch.float64)
        return nothing.scatter_reduce(0, self._photos, rank, "amax")


def read_suspects(path: Path) -> list[SuspectRow]:
    """Return the rows of a table that `mlcrf audit --out` wrote.

    Relative paths of images start at the table's folder.

    Raises:
        DataError: it cannot be read, has no rows, lacks a column, or a cell is invalid; names file
            and line.
    """
    problems = Problems()
    records = load_records(path, problems)
    missing = [name for name in _COLUMNS if name not in records.columns]
    if missing:
        expected = "expected a table that `mlcrf audit --out` wrote"
        raise DataError(f"has no column {', '.join(missing)}; {expected}", path, 1)
    found = [_read_row(path, records, row, problems) for row in range(len(records))]
    problems.raise_if_any()
    return found


def _read_row(path: Path, records: Records, row: int, problems: Problems) -> SuspectRow:
    cells = (records.columns[name][row] for name in _COLUMNS)
    image, label, given, p, because = ("" if cell is None else str(cell) for cell in cells)
    label = composed(label)
    if not image or not label:
        records.fault(problems, row, "expected an image and a label")
    if given not in ("0", "1"):
        records.fault(problems, row, f"given: expected 0 or 1, got {given!r}")
    probability = _number(p)
    if not 0 <= probability <= 1:
        records.fault(problems, row, f"p_others: expected a probability, got {p!r}")
    place = f"{path}:{records.lines[row]}"
    return SuspectRow(place, path.parent / image, label, int(given == "1"), probability, because)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def find_photos_of(rows: Sequence[SuspectRow], photos: Sequence[Photo]) -> list[int | None]:
    """Return the position of each row's photo, by path or else by content; None if it is absent."""
    by_path = {photo.image.key: number for number, photo in enumerate(photos)}
    by_content = {photo.sha256: number for number, photo in enumerate(photos)}
    found: dict[Path, int | None] = {}
    for path in dict.fromkeys(row.image for row in rows):
        image = as_image(path)
        found[path] = by_path.get(image.key)
        if found[path] is None:
            try:
                found[path] = by_content.get(image.fingerprint().hex())
            except (OSError, DataError):  # it is not there, so it is no copy of a photo
                continue
    return [found[row.image] for row in rows]
