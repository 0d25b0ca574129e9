"""Labels of images that are known before they are tagged."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlcrf.choices import Oddity
from mlcrf.data.manifest import Manifest
from mlcrf.data.read_options import ReadOptions
from mlcrf.data.readers import read_dataset
from mlcrf.errors import DataError, LabelsError, SettingsError, printable
from mlcrf.images import Image, as_image
from mlcrf.keywords.photo_keywords import read_keywords
from mlcrf.keywords.sidecar_places import PhotoPlaces
from mlcrf.labels import UNKNOWN, LabelSpace, fold
from mlcrf.prediction.selection import LabelSelection
from mlcrf.rules import Limit, Rules, rule_text
from mlcrf.stores import Stored

Targets = NDArray[np.int8]


@dataclass(frozen=True)
class KnownSource:
    """The source of known labels: options, and the content of the files that they name.

    Attributes:
        table: SHA-256 of a file's content, or a folder's path.
        sidecar_dir: further folder in which `keywords` looks for sidecars.
    """

    given: str = ""
    table: str | None = None
    image_root: str | None = None
    label_sep: str | None = None
    keywords: bool = False
    sidecar_dir: str | None = None

    def record(self) -> dict[str, object]:
        """Return the given options by their names."""
        names = {"table": "known", "keywords": "known_keywords"}
        return {names.get(name, name): value for name, value in asdict(self).items() if value}


class KnownKeywords:
    """A reader of known labels: labels among an image's keywords are present, others unknown.

    Keywords are read when an image is tagged. Keywords that mlcrf wrote do not count.

    Args:
        selection: the labels; they are found by their names in the run or the user's own names.
        places: the places of sidecars, beside the images and in a parallel tree.

    Attributes:
        unreadable: one message per image whose keywords could not be read.
    """

    def __init__(self, selection: LabelSelection, places: Iterable[PhotoPlaces]) -> None:
        self.unreadable: list[str] = []
        self._places = tuple(places)
        labels = selection.labels
        self._implied = [
            list(selection.rules.with_parents([column])) for column in range(len(labels))
        ]
        names = (*enumerate(selection.given), *enumerate(labels))  # the user's own names win
        self._column = {fold(name): at for at, name in names}

    def fill(self, row: Targets, photo: Image) -> None:
        """Set labels (L,) that are among the keywords to 1, in place.

        A keyword that contradicts the row is ignored.
        """
        found = dict.fromkeys(one.existing_sidecar(photo) for one in self._places)
        sidecars = [place for place in found if place]
        try:
            keywords = read_keywords(photo, *sidecars)
        except DataError as error:
            self.unreadable.append(str(error))
            return
        for keyword in keywords:
            column = self._column.get(fold(keyword))
            if column is not None and (row[self._implied[column]] != 0).all():
                row[column] = 1


@dataclass(frozen=True)
class KnownLabels:
    """Known labels: 1 present, 0 absent, -1 unknown.

    Attributes:
        everywhere: labels (L,) of all images.
        of_photo: labels (L,) of single images, by `Image.key`; they override `everywhere`.
        keywords: labels among an image's keywords; the other two override them.
        source: known labels are equal if their sources are equal.
    """

    everywhere: Targets = field(compare=False)
    of_photo: dict[str, Targets] = field(default_factory=dict, compare=False)
    keywords: KnownKeywords | None = field(default=None, compare=False)
    source: KnownSource = KnownSource()

    def covers(self, images: Iterable[Image]) -> bool:
        """Return whether any of the images has an entry in `of_photo`."""
        return any(image.key in self.of_photo for image in images)

    def of(self, images: Sequence[Image]) -> Targets:
        """Return the known labels of images, (N, L)."""
        rows = self.told_of(images)
        if self.keywords is not None:
            for row, image in zip(rows, images, strict=True):
                self.keywords.fill(row, image)
        return rows

    def told_of(self, images: Sequence[Image]) -> Targets:
        """Return the known labels of images without their keywords, (N, L)."""
        rows = np.tile(self.everywhere, (len(images), 1))
        for row, image in zip(rows, images, strict=True):
            own = self.of_photo.get(image.key)
            if own is not None:
                row[own != UNKNOWN] = own[own != UNKNOWN]
        return rows


@dataclass(frozen=True)
class KnownAnswers:
    """Known labels that are in no table, such as the answers of a review.

    Attributes:
        name: their place, for messages.
        digest: equal if the labels are equal.
    """

    manifest: Manifest
    name: str

    def __str__(self) -> str:
        return self.name

    @property
    def digest(self) -> str:
        digest = hashlib.sha256(self.manifest.targets.tobytes())
        for image in self.manifest.images:
            digest.update(os.fsencode(image.key))
        return digest.hexdigest()


def read_known(
    labels: LabelSpace,
    rules: Rules,
    *,
    given: str | None = None,
    table: Path | Stored | KnownAnswers | None = None,
    keywords: KnownKeywords | None = None,
    options: ReadOptions = ReadOptions(),
    sidecar_dir: Path | None = None,
    tell: Callable[[Manifest], None] | None = None,
) -> KnownLabels:
    """Read the known labels of all images, of a table, and of keywords.

    Columns of 0, 1 and unknown are used as they are. In a list of labels, labels that do not occur
    are unknown, unlike in training. Labels without a column are unknown.

    Args:
        given: `sea=1,indoor=0`.
        table: any data set that training reads, with some or all of the labels, or answers.
        keywords: reads the keywords of each image when it is tagged.
        sidecar_dir: further folder in which `keywords` looks for sidecars, for the record.
        tell: called with the table as it was understood.

    Raises:
        SettingsError: `given` does not have that form, or contradicts the rules.
        LabelsError: unknown label.
        DataError: the table cannot be read, or contradicts the rules; names the image.
    """
    everywhere = np.full(len(labels), UNKNOWN, dtype=np.int8)
    text = " ".join((given or "").split())  # one line, for messages
    for part in text.split(",") if given else ():
        name, sign, value = part.rpartition("=")
        if not sign or value.strip() not in ("0", "1"):
            raise SettingsError(f"--given {part.strip()}: expected label=1 or label=0")
        column = labels.index(name.strip(), "--given")
        if everywhere[column] == 1 - int(value):
            raise SettingsError(f"--given {text}: {name.strip()} is given as 1 and as 0")
        everywhere[column] = int(value)
    broken = _contradiction(everywhere, labels, rules)
    if broken:
        raise SettingsError(f"--given {text}: {broken}")
    source = KnownSource(
        text,
        None if table is None else fingerprint(table),
        None if options.image_root is None else str(options.image_root),
        options.label_sep,
        keywords is not None,
        None if sidecar_dir is None else str(sidecar_dir),
    )
    known = KnownLabels(everywhere, keywords=keywords, source=source)
    if table is not None:
        manifest = (
            table.manifest
            if isinstance(table, KnownAnswers)
            else read_dataset(table, replace(options, accept=frozenset(Oddity)))
        )
        if tell is not None:
            tell(manifest)
        for image, row in _rows(manifest, table, labels):
            known.of_photo[image] = row
            merged = np.where(row == UNKNOWN, everywhere, row)
            broken = _contradiction(merged, labels, rules)
            if broken:
                raise DataError(f"{printable(image)}: {broken}", table)
    return known


def with_told(
    known: KnownLabels | None,
    told: Mapping[str | Path | Image, Mapping[str, bool | None]],
    labels: LabelSpace,
    rules: Rules,
) -> KnownLabels:
    """Return known labels with a caller's labels of images added, which override the others.

    Raises:
        LabelsError: unknown label.
        DataError: the labels of an image contradict the rules; names the image.
    """
    if known is None:
        known = KnownLabels(np.full(len(labels), UNKNOWN, dtype=np.int8))
    of_photo = dict(known.of_photo)
    for photo, values in told.items():
        image = as_image(photo).key
        row = of_photo.get(image, np.full(len(labels), UNKNOWN, dtype=np.int8)).copy()
        for name, value in values.items():
            row[labels.index(name)] = UNKNOWN if value is None else int(value)
        broken = _contradiction(np.where(row == UNKNOWN, known.everywhere, row), labels, rules)
        if broken:
            raise DataError(broken, photo)
        of_photo[image] = row
    return replace(known, of_photo=of_photo)


def fingerprint(table: Path | Stored | KnownAnswers) -> str:
    """Return the SHA-256 of a file's content or of answers, or a folder's path."""
    if isinstance(table, KnownAnswers):
        return table.digest
    if isinstance(table, Stored):
        return hashlib.sha256(table.read()).hexdigest()
    if not table.is_file():
        return str(table)
    with table.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _rows(
    manifest: Manifest, table: Path | Stored | KnownAnswers, labels: LabelSpace
) -> list[tuple[str, Targets]]:
    try:
        columns = [labels.index(name) for name in manifest.labels]
    except LabelsError as error:
        raise LabelsError(f"{table}: {error}") from error
    rows: Targets = np.full((len(manifest), len(labels)), UNKNOWN, dtype=np.int8)
    rows[:, columns] = manifest.targets
    if manifest.lists_positives:
        rows[rows == 0] = UNKNOWN
    return [(image.key, row) for image, row in zip(manifest.images, rows, strict=True)]


def _contradiction(row: Targets, labels: LabelSpace, rules: Rules) -> str | None:
    """Return a description of the first contradiction in a row, or None."""
    broken = rules.contradiction(row[None])
    if broken is None:
        return None
    if isinstance(broken.rule, Limit):
        return f"what is given contradicts the rule `{rule_text(broken.rule, labels.names)}`"
    name = labels.names[broken.rule[1]]
    return f"{name} is given as absent, but a label that is present implies it"
