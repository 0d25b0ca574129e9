"""What goes to a cluster and comes back, as tables of Arrow.

Pictures are cut in chunks of as many as the CRF takes at once, so that what is worked on together
is what would be without a cluster; an album is never cut.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice

import pyarrow as pa

from mlcrf.errors import ClusterError
from mlcrf.images import Image, ListedImages, as_image
from mlcrf.prediction import LARGEST_ALBUM, TOGETHER, Prediction

Numbered = tuple[int, Image]

_PICTURES = pa.schema({"listed": pa.int64(), "name": pa.binary()})
_SAID = pa.schema(
    {
        "listed": pa.int64(),
        "name": pa.binary(),
        "labels": pa.list_(pa.string()),
        "marginals": pa.list_(pa.float64()),
        "independent": pa.list_(pa.float64()),
        "confirmed": pa.list_(pa.string()),
        "error": pa.binary(),
        "note": pa.string(),
        "failure": pa.string(),
    }
)


def cut(pictures: ListedImages, *, album: bool) -> Iterator[list[Numbered]]:
    """The pictures in order, in chunks; with `album` one folder's are in one chunk.

    Of a folder's pictures each thousand is an album of its own, as without a cluster.
    """
    numbered = pictures.numbered()
    if not album:
        while chunk := list(islice(numbered, TOGETHER)):
            yield chunk
        return
    chunk = []
    for _, items in groupby(numbered, key=lambda one: one[1].folder):
        while piece := list(islice(items, LARGEST_ALBUM)):
            chunk += piece
            if len(chunk) >= TOGETHER:
                yield chunk
                chunk = []
    if chunk:
        yield chunk


def pack_pictures(chunk: Sequence[Numbered]) -> pa.Table:
    """A chunk, a row a picture."""
    rows = [{"listed": number, "name": os.fsencode(str(one))} for number, one in chunk]
    return pa.Table.from_pylist(rows, _PICTURES)


def unpack_pictures(table: pa.Table) -> list[Numbered]:
    """What `pack_pictures` packed."""
    return [(row["listed"], as_image(os.fsdecode(row["name"]))) for row in table.to_pylist()]


@dataclass(frozen=True)
class Said:
    """What a worker says of a chunk.

    Attributes:
        notes: what a user should know of work that went on.
        failure: why there is nothing else, and nothing more will come.
    """

    predictions: Sequence[Prediction] = ()
    notes: Sequence[str] = ()
    failure: str = ""


def pack_said(said: Said) -> pa.Table:
    """A row for each prediction, each note, and the failure."""
    rows = [
        {
            "listed": one.listed,
            "name": os.fsencode(str(one.image)),
            "labels": one.labels,
            "marginals": one.marginals,
            "independent": one.independent,
            "confirmed": one.confirmed,
            "error": os.fsencode(one.error),  # may name the picture, whose name may be no text
        }
        for one in said.predictions
    ]
    rows += [{"note": note} for note in said.notes]
    rows += [{"failure": said.failure}] if said.failure else []
    return pa.Table.from_pylist(rows, _SAID)


def unpack_said(table: pa.Table) -> Said:
    """What `pack_said` packed."""
    rows = table.to_pylist()
    predictions = [
        Prediction(
            as_image(os.fsdecode(row["name"])),
            tuple(row["labels"]),
            tuple(row["marginals"]),
            tuple(row["independent"]),
            tuple(row["confirmed"]),
            os.fsdecode(row["error"]),
            row["listed"],
        )
        for row in rows
        if row["name"] is not None
    ]
    notes = [row["note"] for row in rows if row["note"]]
    return Said(predictions, notes, next((row["failure"] for row in rows if row["failure"]), ""))


def in_order(predictions: Iterable[Prediction], count: int) -> Iterator[Prediction]:
    """The predictions of `count` pictures, as long as each has exactly one.

    Raises:
        ClusterError: one is missing, is there twice, or is out of its place.
    """
    given = 0
    for one in predictions:
        if one.listed != given:
            raise ClusterError(f"the cluster gave {one.image} out of its place; start again")
        given += 1
        yield one
    if given != count:
        raise ClusterError(f"the cluster gave {given} of {count} pictures; start again")
