"""Start a review: score the photos of a folder, then serve the page until a signal."""

import os
import secrets
import sys
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Thread
from time import monotonic

import numpy as np
import torch

from mlcrf.backbones.feature_source import FeatureSource
from mlcrf.checkpoint import Run
from mlcrf.decoding import Costs, Decoder
from mlcrf.errors import DatabaseError, DataError, RunError
from mlcrf.labels import composed, fold
from mlcrf.review.address import address_file, listening
from mlcrf.review.beliefs import Beliefs
from mlcrf.review.database import ReviewDatabase
from mlcrf.review.learning import Learner
from mlcrf.review.model_saving import ModelSaving
from mlcrf.review.photos import find_photos
from mlcrf.review.promise import Promise
from mlcrf.review.review_app import make_app
from mlcrf.review.safety import Hosts
from mlcrf.review.session import Review
from mlcrf.review.suspects import Suspect, SuspectRow, Suspects, find_photos_of
from mlcrf.review.tag_writing import TagWriting
from mlcrf.training.teaching import require_teachable
from mlcrf.web import address_of, make_server, quiet_signals

_PAUSE_S = 0.02  # between ranking steps, so that requests are not delayed
_IDLE_S = 0.2  # until answers are looked for again
_AWAY_S = 5.0  # until a database that cannot be read is tried again


def start_review(
    folder: Path,
    run: Run | None,
    database: ReviewDatabase,
    extractor: FeatureSource,
    *,
    decoder: Decoder | None = None,
    costs: Costs | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Review, list[str]]:
    """Find the photos, score them, and read the answers given so far.

    Args:
        run: the model; None starts without one.
        extractor: of the run's backbone, or of any.
        decoder: of a promise by the run, calibrated; None promises nothing.
        costs: of wrong decisions on the labels of the run.

    Returns:
        The review, and notes for the user about unreadable images, copies and edits.

    Raises:
        DataError: no such folder, or no readable image in it.
        DatabaseError: the database cannot be used.
    """
    found, notes = find_photos(folder, database)
    photos, rows = [], []
    with closing(extractor.stream(photo.image for photo in found)) as stream:
        for done, (photo, row) in enumerate(zip(found, stream, strict=True), start=1):
            if isinstance(row, DataError):
                notes.append(str(row))
            else:
                photos.append(photo)
                rows.append(row)
            progress(done, len(found))
    if not photos:
        raise DataError(f"{folder}: none of its images can be read: {notes[-1]}")
    features = torch.from_numpy(np.stack(rows))
    make_learner: Callable[[], Learner] | None = partial(Learner, features, run)
    beliefs: Beliefs | None = None
    promise: Promise | None = None
    names: Sequence[str] = ()
    if run is not None:
        try:
            require_teachable(run.crf)
        except RunError as error:
            notes.append(f"this model does not learn from answers: {error}")
            make_learner = None
        with torch.no_grad():
            potentials = run.crf(features)
            if decoder is not None:
                promise = Promise.of_photos(run, potentials, decoder)
        beliefs, names = Beliefs(run.make_inference(), potentials, run.crf), run.labels.names
    maps = extractor.maps
    review = Review(photos, names, beliefs, features, database, maps, make_learner, promise, costs)
    return review, notes


def serve(
    review: Review,
    saving: ModelSaving,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    person: str,
    private: Path,
    announce: Callable[[str], None],
) -> None:
    """Serve the page until SIGINT or SIGTERM; requests that have arrived are answered first.

    Args:
        port: None for the port of the last start with this database; 0 picks a free port.
        private: folder that keeps port and token for the next start.
        announce: called with the address to open, which contains the token, once it listens.

    Raises:
        SettingsError: cannot listen on the address.
        MlcrfError: the private folder cannot be written.
    """
    kept = address_file(private, review.database.address)
    with (
        listening(host, port, kept) as (listener, token),
        thinking(review),
        closing(TagWriting(review)) as writing,
        closing(saving),
        quiet_signals(),
    ):
        port = listener.getsockname()[1]
        app = make_app(
            review, writing, saving, token=token, person=person, hosts=Hosts(host), port=port
        )
        server = make_server(app, grace_s=10, lifespan="off")
        announce(f"{address_of(host, port)}/?token={token}")
        server.run(sockets=[listener])


def add_tags(review: Review, names: Sequence[str], person: str) -> None:
    """Add tags that the review does not have, by a person.

    Raises:
        LabelsError: a name is not one of a label.
    """
    present = {fold(tag.name) for tag in review.tags() if tag.name is not None}
    for name in filter(None, map(composed, names)):
        if fold(name) not in present:
            present.add(fold(name))
            review.change_tag(person, secrets.token_hex(16), name=name)


def add_suspects(review: Review, rows: Sequence[SuspectRow], person: str) -> list[str]:
    """Make the review ask about likely label errors first; return notes for the user.

    Labels that the review does not have become tags, by a person.

    Raises:
        DataError: none of the images is among the photos.
        LabelsError: a label cannot be the name of a tag.
    """
    photos = find_photos_of(rows, review.photos)
    here = [(photo, row) for photo, row in zip(photos, rows, strict=True) if photo is not None]
    absent = [row for photo, row in zip(photos, rows, strict=True) if photo is None]
    notes = []
    if absent:
        what = f"{absent[0].place}: {absent[0].image} is not among the photos"
        if not here:
            raise DataError(f"{what}, nor is any other image; give the folder that was audited")
        notes.append(f"{what}; suspects left out for this: {len(absent)}")
    add_tags(review, list(dict.fromkeys(row.label for _, row in here)), person)
    tags = {fold(tag.name): at for at, tag in enumerate(review.tags()) if tag.name is not None}
    review.suspects = Suspects([Suspect(photo, tags[fold(row.label)], row) for photo, row in here])
    return notes


def open_browser(address: str) -> None:
    """Open the page if there is a screen and a terminal."""
    graphical = sys.platform in ("darwin", "win32") or {"DISPLAY", "WAYLAND_DISPLAY"} & set(
        os.environ
    )
    if graphical and sys.stdout.isatty():
        webbrowser.open(address)


@contextmanager
def thinking(review: Review) -> Iterator[None]:
    """Learn from answers, and rank the photos by their next questions, in the background."""
    done = Event()

    def work() -> None:
        torch.set_num_threads(1)  # two would spin, waiting for each other and for those who answer
        review.choose_typical()
        while not done.is_set():
            began = monotonic()
            try:
                has_learned = review.learn()
            except DatabaseError:  # of which the page tells those who answer
                done.wait(_AWAY_S)
                continue
            if has_learned:
                pause = monotonic() - began  # half of the time is for those who answer
            else:
                pause = _PAUSE_S if review.rank() else _IDLE_S
            done.wait(pause)

    worker = Thread(target=work, name="thinking", daemon=True)
    worker.start()
    try:
        yield
    finally:
        done.set()
        worker.join()
