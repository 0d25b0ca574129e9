"""Labels that are known of images before they are tagged."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlcrf.data.readers import ReadOptions, read_dataset
from mlcrf.errors import DataError, LabelsError, SettingsError, printable
from mlcrf.images import Image, as_image
from mlcrf.implications import Implications
from mlcrf.labels import UNKNOWN, LabelSpace
from mlcrf.prediction.known_keywords import KnownKeywords
from mlcrf.stores import Stored

Targets = NDArray[np.int8]


@dataclass(frozen=True)
class KnownSource:
    """Where known labels come from: the options, and the content of the files that they name.

    Attributes:
        table: SHA-256 of a file's content, or a folder's path.
        sidecar_dir: where `keywords` looks for sidecars, too.
    """

    given: str = ""
    table: str | None = None
    image_root: str | None = None
    label_sep: str | None = None
    keywords: bool = False
    sidecar_dir: str | None = None

    def record(self) -> dict[str, object]:
        """Return the options that are given, by their names."""
        names = {"table": "known", "keywords": "known_keywords"}
        return {names.get(name, name): value for name, value in asdict(self).items() if value}


@dataclass(frozen=True)
class KnownLabels:
    """1 present, 0 absent, -1 unknown, for every image or for some.

    Attributes:
        everywhere: of every image (L,).
        of_photo: by `Image.key`, what else is known of it (L,); it wins.
        keywords: what an image's keywords say, as far as the other two leave it open.
        source: where all this comes from; known labels are equal where their sources are.
    """

    everywhere: Targets = field(compare=False)
    of_photo: dict[str, Targets] = field(default_factory=dict, compare=False)
    keywords: KnownKeywords | None = field(default=None, compare=False)
    source: KnownSource = KnownSource()

    def covers(self, images: Iterable[Image]) -> bool:
        """Whether any of the photos is among those that something is known of."""
        return any(image.key in self.of_photo for image in images)

    def of(self, images: Sequence[Image]) -> Targets:
        """What is known of the photos, (N, L)."""
        rows = self.told_of(images)
        if self.keywords is not None:
            for row, image in zip(rows, images, strict=True):
                self.keywords.fill(row, image)
        return rows

    def told_of(self, images: Sequence[Image]) -> Targets:
        """What was said of the photos, leaving aside their keywords, (N, L)."""
        rows = np.tile(self.everywhere, (len(images), 1))
        for row, image in zip(rows, images, strict=True):
            own = self.of_photo.get(image.key)
            if own is not None:
                row[own != UNKNOWN] = own[own != UNKNOWN]
        return rows


def read_known(
    labels: LabelSpace,
    implications: Implications,
    *,
    given: str | None = None,
    table: Path | Stored | None = None,
    keywords: KnownKeywords | None = None,
    options: ReadOptions = ReadOptions(),
    sidecar_dir: Path | None = None,
) -> KnownLabels:
    """Read what is given for all images, and what a table or its keywords say of each.

    A column of 0, 1 and unknown is taken at its word. A list of labels says that these are
    present and nothing of the others, unlike in training. Labels without a column are unknown.

    Args:
        given: `sea=1,indoor=0`.
        table: any data set that training reads; labels by name, some or all of them.
        keywords: what the images carry, read when they are asked for.
        sidecar_dir: where `keywords` looks for sidecars, for the record.

    Raises:
        SettingsError: `given` is not of that form, or contradicts the implications.
        LabelsError: a label that there is not.
        DataError: the table cannot be read, or contradicts the implications; names the photo.
    """
    everywhere = np.full(len(labels), UNKNOWN, dtype=np.int8)
    text = " ".join((given or "").split())  # one line, for messages
    for part in text.split(",") if given else ():
        name, sign, value = part.rpartition("=")
        if not sign or value.strip() not in ("0", "1"):
            raise SettingsError(f"--given {part.strip()}: expected label=1 or label=0")
        everywhere[labels.index(name.strip())] = int(value)
    broken = _contradiction(everywhere, labels, implications)
    if broken:
        raise SettingsError(f"--given {text}: {broken}")
    source = KnownSource(
        text,
        None if table is None else _fingerprint(table),
        None if options.image_root is None else str(options.image_root),
        options.label_sep,
        keywords is not None,
        None if sidecar_dir is None else str(sidecar_dir),
    )
    known = KnownLabels(everywhere, keywords=keywords, source=source)
    if table is not None:
        for image, row in _rows(table, labels, options):
            known.of_photo[image] = row
            merged = np.where(row == UNKNOWN, everywhere, row)
            broken = _contradiction(merged, labels, implications)
            if broken:
                raise DataError(f"{printable(image)}: {broken}", table)
    return known


def with_told(
    known: KnownLabels | None,
    told: Mapping[str | Path | Image, Mapping[str, bool]],
    labels: LabelSpace,
    implications: Implications,
) -> KnownLabels:
    """What is known, and by photo what a caller says of its labels; the latter wins.

    Raises:
        LabelsError: a label that there is not.
        DataError: a photo's labels contradict the implications; names it.
    """
    if known is None:
        known = KnownLabels(np.full(len(labels), UNKNOWN, dtype=np.int8))
    of_photo = dict(known.of_photo)
    for photo, values in told.items():
        image = as_image(photo).key
        row = of_photo.get(image, np.full(len(labels), UNKNOWN, dtype=np.int8)).copy()
        for name, value in values.items():
            row[labels.index(name)] = int(value)
        broken = _contradiction(
            np.where(row == UNKNOWN, known.everywhere, row), labels, implications
        )
        if broken:
            raise DataError(broken, photo)
        of_photo[image] = row
    return replace(known, of_photo=of_photo)


def _fingerprint(table: Path | Stored) -> str:
    """Return the SHA-256 of a file's content, or a folder's path."""
    if isinstance(table, Stored):
        return hashlib.sha256(table.read()).hexdigest()
    if not table.is_file():
        return str(table)
    with table.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _rows(
    table: Path | Stored, labels: LabelSpace, options: ReadOptions
) -> list[tuple[str, Targets]]:
    manifest = read_dataset(table, options)
    try:
        columns = [labels.index(name) for name in manifest.labels]
    except LabelsError as error:
        raise LabelsError(f"{table}: {error}") from error
    rows: Targets = np.full((len(manifest), len(labels)), UNKNOWN, dtype=np.int8)
    rows[:, columns] = manifest.targets
    if manifest.lists_positives:
        rows[rows == 0] = UNKNOWN
    return [(image.key, row) for image, row in zip(manifest.images, rows, strict=True)]


def _contradiction(row: Targets, labels: LabelSpace, implications: Implications) -> str | None:
    """Return what of a row cannot be, or None."""
    broken = implications.contradiction(row[None])
    if broken is None:
        return None
    name = labels.names[broken[2]]
    return f"{name} is said to be absent, but another label that is present implies it"
