"""From a folder and a run to a review that can be served."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mlcrf.backbones.features import FeatureExtractor
from mlcrf.checkpoint import Run
from mlcrf.errors import DataError
from mlcrf.review.database import ReviewDatabase
from mlcrf.review.photos import find_photos
from mlcrf.review.session import Review


def start_review(
    folder: Path,
    run: Run,
    database: ReviewDatabase,
    extractor: FeatureExtractor,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Review, list[str]]:
    """Find the photos, score them, and take in what was answered before.

    Returns:
        The review, and notes for the user: pictures that cannot be read, copies, edits.

    Raises:
        DataError: no folder, or no picture in it that can be read.
        DatabaseError: the database cannot be used.
    """
    found, notes = find_photos(folder, database)
    photos, features = [], []
    stream = extractor.stream(photo.path for photo in found)
    for done, (photo, feature) in enumerate(zip(found, stream, strict=True), start=1):
        if isinstance(feature, DataError):
            notes.append(str(feature))
        else:
            photos.append(photo)
            features.append(feature)
        progress(done, len(found))
    if not photos:
        raise DataError(f"{folder}: none of its pictures can be read: {notes[-1]}")
    with torch.no_grad():
        potentials = run.crf(torch.from_numpy(np.stack(features)))
    return Review(photos, run.labels, potentials, run.make_inference(), database), notes
