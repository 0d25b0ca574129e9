"""Read the answers of a review as data to train on."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mlcrf.checkpoint import Run
from mlcrf.data.manifest import Manifest
from mlcrf.errors import DataError
from mlcrf.labels import UNKNOWN, LabelSpace
from mlcrf.review.answers import Board
from mlcrf.review.database import ReviewDatabase
from mlcrf.review.photos import Photo, find_photos
from mlcrf.rules import Rules

_FEWEST = 10  # answers of yes or no that a label needs


def read_review(
    url: str, folders: Sequence[Path] = (), *, labels: LabelSpace | None = None
) -> Manifest:
    """Return the photos with answers as a partly labelled data set.

    Yes is present, no is absent; without an answer, with `cannot tell`, or with contradictory
    answers a label is unknown.

    Args:
        url: see `mlcrf.review.connections.parse_url`.
        folders: current folders of the photos; by default the folders in the database.
        labels: labels to learn, by the names of tags or by the labels of the model that they come
            from; None takes all tags with at least ten answers, and the notes list the others.

    Raises:
        DatabaseError: no such database, or it cannot be read.
        DataError: no photos, or no answers to learn from.
    """
    return _manifest(*_read(url, folders), labels)


def read_archive(url: str, run: Run | None, folders: Sequence[Path] = ()) -> Manifest:
    """Return all photos of a review, answered or not, with what is known of them.

    The run's labels come first, then the tags that have an answer of yes or no, all by the names of
    their tags. A label of the run whose tag was retired or merged keeps its name, and is unknown;
    so are answers that break a rule of the run.

    Args:
        run: the model of the review; None without one.
        folders: see `read_review`.

    Raises:
        DatabaseError, DataError: see `read_review`.
    """
    board, photos, name, notes = _read(url, folders)
    verdicts = {number: board.verdicts(number) for number in photos}
    if not any(verdicts.values()):
        raise DataError(f"{name}: has no answers about these photos; `mlcrf review` asks for them")
    ours = () if run is None else run.labels.names
    names = board.tags.named([*ours, *board.labels()])
    said = {
        key
        for row in verdicts.values()
        for key, verdict in row.items()
        if verdict.value != UNKNOWN and key in names
    }
    keys = [*ours, *(key for key in names if key in said and key not in ours)]
    taken = set(names.values())
    labels = [names.get(key, f"{key} (retired)" if key in taken else key) for key in keys]
    targets = np.full((len(photos), len(keys)), UNKNOWN, dtype=np.int8)
    for row, found in zip(targets, verdicts.values(), strict=True):
        for column, key in enumerate(keys):
            if key in found and key in names:
                row[column] = found[key].value
    rules = Rules() if run is None else run.rules
    contradicting = 0
    for row in targets:
        broken = sorted(rules.disagreement(row.astype(np.int64)))
        row[broken] = UNKNOWN
        contradicting += len(broken)
    if contradicting:
        notes.append(f"answers that contradict each other, unknown here: {contradicting}")
    return Manifest(
        images=tuple(photo.image for photo in photos.values()),
        targets=targets,
        labels=LabelSpace(tuple(labels)),
        splits=None,
        name="review",
        notes=tuple(notes),
    )


def read_answers(url: str, labels: LabelSpace, folders: Sequence[Path]) -> Manifest:
    """Return the answers about these labels, for the photos of the review where they are now.

    Args:
        folders: further folders to look for the photos in, if the review's are not around them.

    Raises:
        DatabaseError, DataError: see `read_review`.
    """
    database = ReviewDatabase(url, must_exist=True)
    try:
        reviewed = [Path(one) for one in database.folders() if Path(one).is_dir()]
    finally:
        database.close()
    others = [
        one
        for one in folders
        if one.is_dir() and not any(one.resolve().is_relative_to(place) for place in reviewed)
    ]
    return read_review(url, [*reviewed, *others], labels=labels)


def correct(manifest: Manifest, url: str) -> tuple[Manifest, int]:
    """Return a data set in which the answers of a review replace the annotations.

    An annotation stays where nobody can tell, or people contradict each other. Images are matched
    by path.

    Returns:
        The data set, and the number of annotations that have changed.

    Raises:
        DatabaseError, DataError: see `read_review`.
    """
    answers = read_answers(url, manifest.labels, ())
    row_of = {image.key: row for row, image in enumerate(answers.images)}
    targets = manifest.targets.copy()
    for image, row in zip(manifest.images, targets, strict=True):
        if image.key in row_of:
            said = answers.targets[row_of[image.key]]
            row[said != UNKNOWN] = said[said != UNKNOWN]
    changed = int((targets != manifest.targets).sum())
    return replace(manifest, targets=targets), changed


def _read(url: str, folders: Sequence[Path]) -> tuple[Board, dict[int, Photo], str, list[str]]:
    """Return the answers, the photos by number, the database's name, and notes."""
    database = ReviewDatabase(url, must_exist=True)
    try:
        board = Board()
        board.tags.tell(database.tags_since(0))
        board.tell(database.since(0))
        if not folders:
            folders = [Path(one) for one in database.folders() if Path(one).is_dir()]
        if not folders:
            raise DataError(
                f"{database.name}: its folders are not here; give the folder of the photos"
            )
        photos: dict[int, Photo] = {}
        notes: list[str] = []
        for folder in folders:
            found, told = find_photos(folder, database)
            photos |= {photo.id: photo for photo in found}
            notes += told
        return board, photos, database.name, notes
    finally:
        database.close()


def _manifest(
    board: Board,
    photos: dict[int, Photo],
    name: str,
    notes: list[str],
    labels: LabelSpace | None,
) -> Manifest:
    answered = set(board.photos())
    here = sorted(answered & photos.keys())
    verdicts = {number: board.verdicts(number) for number in here}
    if not here:
        raise DataError(f"{name}: has no answers about these photos; `mlcrf review` asks for them")
    names = board.tags.named(board.labels())
    keys = {name: key for key, name in names.items()}
    known: dict[str, int] = {}
    for row in verdicts.values():
        for key, verdict in row.items():
            if key in names:
                known[names[key]] = known.get(names[key], 0) + (verdict.value != UNKNOWN)
    if labels is None:
        few = sorted(label for label, number in known.items() if number < _FEWEST)
        enough = tuple(sorted(label for label, number in known.items() if number >= _FEWEST))
        if not enough:
            raise DataError(
                f"{name}: no label has {_FEWEST} answers of yes or no yet; answer more, or name "
                "the labels to learn in a file for --labels"
            )
        labels = LabelSpace(enough)
        if few:
            notes.append(f"labels with fewer than {_FEWEST} answers are left out: {', '.join(few)}")
    targets = np.full((len(here), len(labels)), UNKNOWN, dtype=np.int8)
    conflicts = 0
    for at, number in enumerate(here):
        for column, label in enumerate(labels):
            found = verdicts[number].get(board.tags.resolve(keys.get(label, label)))
            if found is not None:
                targets[at, column] = found.value
                conflicts += found.is_conflict
    if conflicts:
        notes.append(f"labels that people contradict each other on, unknown here: {conflicts}")
    missing = len(answered) - len(here)
    if missing:
        notes.append(f"photos with answers that are not in these folders: {missing}")
    return Manifest(
        images=tuple(photos[number].image for number in here),
        targets=targets,
        labels=labels,
        splits=None,
        name="review",
        notes=tuple(notes),
    )
