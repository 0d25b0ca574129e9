"""Likely errors of annotations, judged by the image and by the other annotations of the image."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.data.manifest import Manifest
from mlcrf.errors import DataError
from mlcrf.labels import UNKNOWN
from mlcrf.training.teaching import Teacher

_MOST_REASONS = 3  # other annotations that are named
_LEAST_REASON = 0.1  # nats
_ERROR_RATE = 0.1  # of annotations, for couplings


@dataclass(frozen=True)
class Suspect:
    """One annotation, and how likely it is wrong.

    Attributes:
        row: number of the image in the data set.
        label: name of the label.
        given: 1 or 0, as annotated.
        p_image: P(label present | image), by a fit without this annotation.
        p_others: P(label present | image, the other annotations).
        score: 1 - P(given | image, the other annotations).
        suggestion: 1 or 0, the likelier one.
        because: other annotations that speak most for the suggestion, with their nats.
    """

    row: int
    label: str
    given: int
    p_image: float
    p_others: float
    score: float
    suggestion: int
    because: tuple[tuple[str, int, float], ...]


@dataclass(frozen=True)
class Audit:
    """Probabilities of all annotations of a data set.

    Attributes:
        columns: columns of the targets that are judged: those with an annotation (K,).
        p_image, p_others: see `Suspect`, float64 (N, K).
        pairwise_matrix: couplings of these labels (K, K).
        unusual: each label's annotation, or its probability, minus its mean probability, times
            the 1 - 2 e of `audit` (N, K).
    """

    manifest: Manifest
    columns: Tensor
    p_image: Tensor
    p_others: Tensor
    pairwise_matrix: Tensor
    unusual: Tensor

    @property
    def scores(self) -> Tensor:
        """The probability that each annotation is wrong, NaN where there is none, (N, K)."""
        given = self._given
        wrong = torch.where(given == 1, 1 - self.p_others, self.p_others)
        return wrong.masked_fill(given == UNKNOWN, torch.nan)

    def suspects(self, least: float = 0.5) -> Iterator[Suspect]:
        """Yield annotations that are wrong with at least this probability, likeliest first."""
        scores = self.scores
        rows, columns = (scores >= least).nonzero().T
        order = scores[rows, columns].argsort(descending=True, stable=True)
        for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
            yield self._suspect(row, column, float(scores[row, column]))

    @property
    def _given(self) -> Tensor:
        return torch.from_numpy(self.manifest.targets).long()[:, self.columns]

    def _suspect(self, row: int, column: int, score: float) -> Suspect:
        names, columns = self.manifest.labels.names, self.columns.tolist()
        given = int(self.manifest.targets[row, columns[column]])
        suggestion = int(self.p_others[row, column] > 0.5)
        sign = 1 if suggestion else -1
        for_it = sign * self.pairwise_matrix[column] * self.unusual[row]
        reasons = []
        for other in for_it.argsort(descending=True)[:_MOST_REASONS].tolist():
            said = int(self.manifest.targets[row, columns[other]])
            if said != UNKNOWN and for_it[other] >= _LEAST_REASON:
                reasons.append((names[columns[other]], said, float(for_it[other])))
        return Suspect(
            row,
            names[columns[column]],
            given,
            float(self.p_image[row, column]),
            float(self.p_others[row, column]),
            score,
            suggestion,
            tuple(reasons),
        )


def audit(
    manifest: Manifest,
    features: NDArray[np.float32],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Audit:
    """Return the probabilities of all annotations, none by a model that has seen it.

    Unaries are fitted to the annotations with each one left out in closed form; couplings are
    learned on these left-out log-odds, as if one annotation in ten were wrong
    (`mlcrf.training.teaching`): else they would learn what errors have in common. With both,

        logit P(y_i | x, others) = left_out_i + sum_j pairwise_ij (1 - 2 e) (y_j - base_rate_j)

    where e = 0.1, since y_j may be wrong as well, and an unknown y_j is replaced by its
    probability. The couplings have seen the annotation, as one of many.

    Args:
        features: of the images, in their order (N, D).
        progress: called with the number of fits that are begun, and of all.

    Raises:
        DataError: no annotation.

    Cost: a Newton fit for each label, and of 2,000 of its annotations for each of four widths of
        the prior.
    """
    targets = torch.from_numpy(manifest.targets).long()
    taught = Teacher(features).learn(targets, error_rate=_ERROR_RATE, progress=progress)
    if taught is None:
        raise DataError(f"{manifest.name}: every label of every image is unknown")
    given = targets[:, taught.columns]
    left_out = taught.log_odds.double()
    likely = torch.where(given == UNKNOWN, left_out.sigmoid(), given)
    unusual = (1 - 2 * _ERROR_RATE) * (likely - taught.base_rate)
    matrix = taught.crf.pairwise_matrix().double()
    p_others = (left_out + unusual @ matrix).sigmoid()
    return Audit(manifest, taught.columns, left_out.sigmoid(), p_others, matrix, unusual)
