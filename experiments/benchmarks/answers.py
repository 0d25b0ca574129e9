"""Time of an answer on the review page, to new probabilities of its photo, with 24 to 400 labels.

    make bench-answers [OUT=file.json QUICK=1]

The couplings and rules are those of the models that come with mlcrf, and of a drawn model with
eight couplings a label; log-odds of photos are drawn. Three answers are given about each photo, in
turn, each about one label, while the other photos are ranked in the background as on the page.
Requests, which take a few ms, are not counted.
"""

import argparse
import itertools
import json
import secrets
import statistics
import tempfile
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from teaching import seconds_of
from timing import describe_machine

from mlcrf.checkpoint import load_run
from mlcrf.choices import InferenceName
from mlcrf.config import TrainSettings
from mlcrf.crf import Potentials
from mlcrf.images import as_image
from mlcrf.model import LabelCrf
from mlcrf.review.answers import NO
from mlcrf.review.beliefs import Beliefs
from mlcrf.review.database import ReviewDatabase, Stamped
from mlcrf.review.launch import thinking
from mlcrf.review.photos import Photo
from mlcrf.review.session import Review

PHOTOS, PER_PHOTO = 40, 3
DRAWN = 400  # labels
_COUPLINGS_PER_LABEL = 8


def main() -> None:
    """Measure all models, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    photos = 4 if arguments.quick else PHOTOS
    models = {name: load_run(Path(name)).crf for name in ("mirflickr24", "mirflickr38")}
    models[f"drawn, {DRAWN} labels"] = draw(DRAWN)
    cases = [measure(name, crf, photos) for name, crf in models.items()]
    text = json.dumps({"machine": describe_machine(), "models": cases}, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")


def draw(num_labels: int) -> LabelCrf:
    """Return a CRF with couplings between labels drawn by chance."""
    rng = np.random.default_rng(0)
    pairs = np.sort(rng.integers(0, num_labels, (num_labels * _COUPLINGS_PER_LABEL // 2, 2)), 1)
    edges = torch.from_numpy(np.unique(pairs[pairs[:, 0] < pairs[:, 1]], axis=0))
    crf = LabelCrf(1, num_labels, edges=edges)
    with torch.no_grad():
        crf.pairwise.copy_(torch.from_numpy(rng.normal(0.3, 0.5, len(edges))))
    return crf


def measure(name: str, crf: LabelCrf, photos: int) -> dict[str, Any]:
    """Measure three answers about each of as many photos with a model's couplings."""
    rng = np.random.default_rng(1)
    unary = torch.from_numpy(rng.normal(-3, 2, (photos, crf.num_labels)).astype(np.float32))
    potentials = Potentials(unary, crf.edges, crf.pairwise.detach(), crf.rules)
    method = crf.make_inference(InferenceName.AUTO, TrainSettings())
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(ReviewDatabase(str(Path(folder) / "tags.db"))) as database,
    ):
        files = [Stamped(f"im{number}.jpg", "1", f"{number:064x}") for number in range(photos)]
        numbers, _ = database.register("/photos", files)
        shown = [
            Photo(number, as_image(f"/photos/{file.path}"), file.path, file.sha256)
            for number, file in zip(numbers, files, strict=True)
        ]
        labels = tuple(f"label {number}" for number in range(crf.num_labels))
        review = Review(shown, labels, Beliefs(method, potentials, crf), unary, database)
        with thinking(review):
            asked = [rng.choice(crf.num_labels, PER_PHOTO, replace=False) for _ in range(photos)]
            waits = []
            for turn, photo in itertools.product(range(PER_PHOTO), range(photos)):
                about = {int(asked[photo][turn]): NO}
                act = partial(review.answer, photo, about, "anna", secrets.token_hex(16))
                waits.append(seconds_of(act)[0])
    return {
        "model": name,
        "labels": crf.num_labels,
        "couplings": len(crf.edges),
        "photos": photos,
        "answers": len(waits),
        "answer_s": statistics.median(waits),
        "answer_95_s": float(np.quantile(waits, 0.95)),
        "answer_most_s": max(waits),
    }


if __name__ == "__main__":
    main()
