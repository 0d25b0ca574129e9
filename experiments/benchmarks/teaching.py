"""Time of learning the tags of a review from its answers, and of answers meanwhile.

    make bench-teaching [OUT=file.json QUICK=1]

Features of as many photos are drawn, tags that depend on them and on each other are planted, and a
person answers about some of them, chosen by chance. Then single answers are given: `learn` is the
time from one to new probabilities of all photos and estimates of the tag's quality, `answer` that
of answers given while the page learns and ranks in the background. The time of the processor, of
all threads together, is given apart: other work on the machine hardly counts in it. As on the page,
one thread learns.
"""

import argparse
import json
import secrets
import statistics
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timing import describe_machine

from mlcrf.images import as_image
from mlcrf.review.answers import NO, YES
from mlcrf.review.database import ReviewDatabase, Stamped
from mlcrf.review.launch import thinking
from mlcrf.review.learning import Learner
from mlcrf.review.photos import Photo
from mlcrf.review.session import Review

FEATURES, TOPICS = 1280, 20
ANSWERED = 2000  # photos that are answered about


@dataclass(frozen=True)
class Case:
    """A size of an archive, and a number of answers."""

    photos: int
    tags: int
    answers: int


CASES = (Case(2000, 50, 5000), Case(50_000, 50, 5000))
QUICK = (Case(200, 6, 240),)


def main() -> None:
    """Measure all cases, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # as the thread that learns for the page
    cases = [measure(case) for case in (QUICK if arguments.quick else CASES)]
    text = json.dumps({"machine": describe_machine(), "cases": cases}, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")


def measure(case: Case, *, turns: int = 5, answers: int = 60) -> dict[str, Any]:
    """Measure one case.

    Args:
        turns: single answers that are learned from, one after the other.
        answers: answers given while it learns.
    """
    features, truth = draw(case)
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(ReviewDatabase(str(Path(folder) / "tags.db"))) as database,
    ):
        review = start(features, database)
        rng = np.random.default_rng(1)
        teach(review, case, truth, rng)
        first, first_processor = seconds_of(review.learn)
        learned = [
            seconds_of(review.learn)
            for _ in range(turns)
            if answer_one(review, case, truth, rng) is not None
        ]
        with thinking(review):
            waits = [answer_one(review, case, truth, rng) for _ in range(answers)]
            lessons = review.progress()["lessons"]
        walls, processors = zip(*learned, strict=True)
        return {
            "photos": case.photos,
            "tags": case.tags,
            "answers": case.answers,
            "first_lesson_s": first,
            "first_lesson_processor_s": first_processor,
            "learn_s": statistics.median(walls),
            "learn_most_s": max(walls),
            "learn_processor_s": statistics.median(processors),
            "answer_s": statistics.median(waits),
            "answer_95_s": float(np.quantile(waits, 0.95)),
            "answer_most_s": max(waits),
            "lessons_meanwhile": lessons - turns - 1,
        }


def draw(case: Case) -> tuple[torch.Tensor, NDArray[np.bool_]]:
    """Draw features, and tags that share topics."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((case.photos, FEATURES), np.float32)
    topics = features @ rng.standard_normal((FEATURES, TOPICS), np.float32) / FEATURES**0.5
    scores = 2 * topics @ rng.standard_normal((TOPICS, case.tags), np.float32) / TOPICS**0.5
    return torch.from_numpy(features), scores - 2 > rng.logistic(size=scores.shape)


def start(features: torch.Tensor, database: ReviewDatabase) -> Review:
    """Start a review of photos that have no files."""
    files = [Stamped(f"im{n}.jpg", "1", f"{n:064x}") for n in range(len(features))]
    numbers, _ = database.register("/photos", files)
    photos = [
        Photo(number, as_image(f"/photos/{file.path}"), file.path, file.sha256)
        for number, file in zip(numbers, files, strict=True)
    ]
    learner = partial(Learner, features, None)
    return Review(photos, (), None, features, database, make_learner=learner)


def teach(review: Review, case: Case, truth: NDArray[np.bool_], rng: np.random.Generator) -> None:
    """Answer about photos chosen by chance, as many for each tag."""
    some = min(case.photos, ANSWERED)
    for tag in range(case.tags):
        review.change_tag("anna", secrets.token_hex(16), name=f"tag {tag}")
        chosen = rng.choice(some, case.answers // case.tags, replace=False)
        for value in (NO, YES):
            photos = chosen[truth[chosen, tag] == bool(value)].tolist()
            if photos:
                review.answer_many(photos, {tag: value}, "anna", secrets.token_hex(16))


def answer_one(
    review: Review, case: Case, truth: NDArray[np.bool_], rng: np.random.Generator
) -> float:
    """Answer about one tag of one photo; return the seconds that it took."""
    photo, tag = int(rng.integers(case.photos)), int(rng.integers(case.tags))
    values = {tag: int(truth[photo, tag])}
    act = partial(review.answer, photo, values, "anna", secrets.token_hex(16))
    return seconds_of(act)[0]


def seconds_of(call: Callable[[], object]) -> tuple[float, float]:
    """Return wall time and the processor's time of one call."""
    began, began_processor = perf_counter(), process_time()
    call()
    return perf_counter() - began, process_time() - began_processor


if __name__ == "__main__":
    main()
