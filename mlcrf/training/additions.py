"""Extend a run by the labels of a data set, without training anew."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mlcrf.backbones.feature_source import FeatureSource
from mlcrf.backbones.sources import make_source
from mlcrf.checkpoint import Provenance, Run
from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.plausibility import spelling
from mlcrf.data.rules import with_rules
from mlcrf.errors import DataError
from mlcrf.labels import UNKNOWN, LabelSpace
from mlcrf.rules import Rules
from mlcrf.training.extending import TaughtReport, TeachingData, make_taught_run, marginal_log_odds
from mlcrf.training.extraction import Progress
from mlcrf.training.repetition import digest_data
from mlcrf.training.taught_saving import require_free, save_taught
from mlcrf.training.teaching import Teacher, require_teachable


def extend(
    run: Run,
    manifest: Manifest,
    out: Path,
    extractor: FeatureSource | None = None,
    *,
    overwrite: bool = False,
    made_by: Provenance = Provenance(),
    progress: Progress = lambda done, total: None,
    fitted: Progress = lambda done, total: None,
) -> TaughtReport:
    """Add the labels of a data set that a run does not know, and write the new run directory.

    The run's labels keep what they know; where the data know them, they are corrected if answers
    that were left out become likelier by more than chance explains. Test images are not used.

    Args:
        extractor: of the run's backbone; by default without a cache.
        progress: called with the number of images whose features are computed, and of all images.
        fitted: called with the number of a label's fits that are begun, and of all.

    Raises:
        DataError: nothing to learn, a new label without a positive image, or images that cannot be
            read (all named).
        RunError: labels cannot be added to this run, or the directory exists.
    """
    require_free(out, overwrite=overwrite)
    run.require_input(manifest)
    require_teachable(run.crf)
    extended = add_labels(run, manifest)
    new = range(len(run.labels), len(extended.labels))
    empty = [extended.labels.names[at] for at in new if not (extended.targets[:, at] == 1).any()]
    if empty:
        raise DataError(
            f"{manifest.name}: no image has {', '.join(map(repr, empty))}; a new label needs one"
        )
    if not new and (extended.targets == UNKNOWN).all():
        raise DataError(
            f"{manifest.name}: nothing to learn: it has no label that {run.path} does not know, "
            "and says nothing about those that it knows"
        )
    extractor = extractor or make_source(run.defer_backbone())
    report = teach(run, extended, extractor, made_by=made_by, progress=progress, fitted=fitted)
    return save_taught(report, out, overwrite=overwrite)


def add_labels(run: Run, manifest: Manifest) -> Manifest:
    """Return the images of a data set that may be learned from, with the run's labels first.

    A label is one of the run's if it differs in case, spaces or composition of accents only. The
    run's rules hold; those of the data set are left out.

    Raises:
        DataError: two labels that are one of the run's, or no image that is not a test image.
    """
    used = np.array([split != Split.TEST for split in manifest.splits or ()], dtype=bool)
    if manifest.splits is not None:
        if not used.any():
            raise DataError(f"{manifest.name}: all images are test images, which are not used")
        manifest = manifest.rows(np.flatnonzero(used))
    known = {spelling(name): at for at, name in enumerate(run.labels)}
    known |= {name: at for at, name in enumerate(run.labels)}
    names, columns, taken = list(run.labels), [], dict[int, str]()
    for name in manifest.labels:
        at = known.get(name, known.get(spelling(name)))
        if at is None:
            at = len(names)
            names.append(name)
        elif at in taken:
            raise DataError(
                f"{manifest.name}: labels {taken[at]!r} and {name!r} are both {names[at]!r} of "
                f"{run.path}; leave one out by --ignore-columns"
            )
        taken[at] = name
        columns.append(at)
    targets = np.full((len(manifest), len(names)), UNKNOWN, dtype=np.int8)
    targets[:, columns] = manifest.targets
    widened = replace(manifest, targets=targets, labels=LabelSpace(tuple(names)), rules=Rules())
    return with_rules(widened, run.rules)


def teach(
    base: Run | None,
    manifest: Manifest,
    extractor: FeatureSource,
    *,
    skip_unreadable: bool = False,
    made_by: Provenance = Provenance(),
    progress: Progress = lambda done, total: None,
    fitted: Progress = lambda done, total: None,
) -> TaughtReport:
    """Return the run that the data teach, not yet saved.

    Args:
        base: the run to start from, whose labels come first in the data; None starts without
            labels.
        extractor: of the base run's backbone.
        skip_unreadable: leave out images that cannot be read, with a note for each.
        progress, fitted: see `extend`.

    Raises:
        DataError: no known label, or images that cannot be read (all named).
        RunError: labels cannot be added to this run.
    """
    if base is not None:
        require_teachable(base.crf)
    made_by = replace(made_by, data_sha256=digest_data(manifest))
    if skip_unreadable:
        rows, features, errors = extractor.readable(manifest.images, progress=progress)
        notes = (*manifest.notes, *map(str, errors))
        manifest = replace(manifest.rows(np.array(rows)), notes=notes)
    else:
        features = extractor.matrix(manifest.images, progress=progress)
    answers = torch.from_numpy(manifest.targets.astype(np.int64))
    if base is None:
        before, teacher = None, Teacher(features)
    else:
        before = marginal_log_odds(base, features)
        teacher = Teacher(features, base.crf, base.independent, before)
    taught = None
    if not bool((answers == UNKNOWN).all()):
        taught = teacher.learn(answers, progress=fitted)
    if taught is None:
        raise DataError(f"{manifest.name}: nothing to learn: every label of every image is unknown")
    names, notes = manifest.labels.names, manifest.notes
    data = TeachingData(manifest.name, manifest.images, features, answers, names, before, notes)
    return make_taught_run(taught, data, base, extractor.spec, made_by)
