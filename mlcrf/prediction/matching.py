"""Match images with the rows of a table of predictions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from mlcrf.errors import DataError, printable
from mlcrf.images import Image
from mlcrf.prediction.formats.reading import PredictionTable
from mlcrf.prediction.record import Prediction


@dataclass(frozen=True)
class Matched:
    """The predictions of the images that have a row, in the order of the images.

    Attributes:
        notes: a note on images without a row, and a note on rows of other images.
    """

    predictions: Sequence[Prediction]
    notes: Sequence[str] = ()


def match_images(table: PredictionTable, images: Iterable[Image], name: str) -> Matched:
    """Match images with rows by the listed name, else by absolute path.

    Args:
        name: name of the table, for messages.

    Raises:
        DataError: no image has a row, or an image has two rows with different labels.
    """
    by_name: dict[str, Prediction] = {}
    for row in table:
        other = by_name.setdefault(row.image.name, row)
        if other.labels != row.labels:
            raise DataError(f"{name}: {printable(row.image)} has two rows with different labels")
    by_key: dict[str, Prediction] = {}
    found, lost, used = list[Prediction](), list[Image](), set[str]()
    for image in images:
        match = by_name.get(image.name)
        if match is None:
            by_key = by_key or {one.image.key: one for one in by_name.values()}
            match = by_key.get(image.key)
        if match is None:
            lost.append(image)
        else:
            used.add(match.image.name)
            found.append(replace(match, image=image))
    others = [one.image for one in by_name.values() if one.image.name not in used]
    if not found:
        raise DataError(f"{name}: has no row for these images; check its image paths")
    notes = []
    if lost:
        notes.append(f"{_count(lost, 'image')} without a row in {name}, left as they are")
    if others:
        notes.append(f"{_count(others, 'row')} of {name} for other images")
    return Matched(found, notes)


def _count(images: Sequence[Image], what: str) -> str:
    """Return the number of images, with an example."""
    plural = "" if len(images) == 1 else "s"
    return f"{len(images)} {what}{plural} (such as {printable(images[0])})"
