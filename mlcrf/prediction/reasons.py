"""Reasons for the probability of a label: parts that add up, and where in the image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.crf import UNKNOWN
from mlcrf.errors import BackboneError
from mlcrf.images import Image
from mlcrf.inference.explanation import Explanation
from mlcrf.model import LabelCrf


class PartKind(StrEnum):
    """The origin of a part of a label's log-odds."""

    IMAGE = "image"  # the label's log-odds on its own
    KNOWN = "known"  # the coupling with a label that is known to be present
    LABEL = "label"  # another label, as likely as it is
    RULES = "rules"
    UNEXPLAINED = "unexplained"  # the error of approximate inference


@dataclass(frozen=True)
class LogOddsPart:
    """One part of a label's log-odds.

    Attributes:
        label: the other label; empty for parts of other kinds.
        log_odds: above 0 if it speaks for the label.
    """

    kind: PartKind
    label: str
    log_odds: float


@dataclass(frozen=True)
class EvidenceMap:
    """The label's log-odds on its own, by place: the sum of all places, and a bias.

    Attributes:
        values: log-odds from each place of the upright image, float64 (H', W').
        bias: the part that comes from no place.
    """

    values: NDArray[np.float64]
    bias: float


@dataclass(frozen=True)
class Reasons:
    """The reasons for the probability of a label of one image.

    Attributes:
        probability: P(label present given what is known of the other labels).
        log_odds: those of this probability; infinite if other labels settle the label.
        parts: the log-odds, cut in parts whose sum they are.
        settled_by: known labels from which the label follows by the rules.
        map: the image's part by place; None if the network does not allow it.
        no_map: the reason why there is no map.
    """

    image: Image
    label: str
    probability: float
    log_odds: float
    parts: tuple[LogOddsPart, ...]
    settled_by: tuple[str, ...] = ()
    map: EvidenceMap | None = None
    no_map: str = ""


def make_reasons(
    explanation: Explanation,
    label: int,
    labels: Sequence[str],
    image: Image,
    find_map: Callable[[], EvidenceMap],
) -> Reasons:
    """Return the reasons for a label of an image, with a map if the network allows it.

    Args:
        labels: names of all labels.
        find_map: raises BackboneError if the network does not allow it.

    Raises:
        DataError: the image cannot be read any more.
    """
    evidence, no_map = None, ""
    try:
        evidence = find_map()
    except BackboneError as error:
        no_map = str(error)
    return Reasons(
        image=image,
        label=labels[label],
        probability=float(scipy.special.expit(explanation.log_odds)),
        log_odds=explanation.log_odds,
        parts=list_parts(explanation, labels),
        settled_by=tuple(labels[one] for one in explanation.settled_by),
        map=evidence,
        no_map=no_map,
    )


def list_parts(explanation: Explanation, labels: Sequence[str]) -> tuple[LogOddsPart, ...]:
    """Return the parts of an explanation: the image, other labels by size, and the remainders.

    Parts of 0 are left out, except the image's.
    """
    known = explanation.known.tolist()
    others = [
        LogOddsPart(PartKind.LABEL if known[at] == UNKNOWN else PartKind.KNOWN, labels[at], value)
        for at, value in enumerate(explanation.by_label.tolist())
        if value
    ]
    ends = [
        LogOddsPart(PartKind.RULES, "", explanation.rules),
        LogOddsPart(PartKind.UNEXPLAINED, "", explanation.unexplained),
    ]
    return (
        LogOddsPart(PartKind.IMAGE, "", explanation.unary),
        *sorted(others, key=lambda part: -abs(part.log_odds)),
        *(part for part in ends if part.log_odds),
    )


def map_evidence(crf: LabelCrf, maps: Sequence[Tensor], label: int) -> EvidenceMap:
    """Return where in an image a label's log-odds on its own come from.

    The head is linear in features that are means of maps, so each place has its share of the
    log-odds. Maps of several networks are brought to the finest size and added.

    Args:
        maps: of each network (D, H', W'), see `FeatureExtractor.maps`.
    """
    weights, bias = crf.linear_part(torch.cat([one.mean((1, 2)) for one in maps]), label)
    height, width = (max(sizes) for sizes in zip(*(one.shape[1:] for one in maps), strict=True))
    total = torch.zeros(height, width, dtype=torch.float64)
    for one, weight in zip(maps, torch.split(weights, [len(one) for one in maps]), strict=True):
        shares = torch.einsum("d,dhw->hw", weight.double(), one.double()) / one[0].numel()
        rows, columns = (_overlaps(*sizes) for sizes in zip(shares.shape, total.shape, strict=True))
        total += rows @ shares @ columns.T
    return EvidenceMap(total.numpy(), bias)


def _overlaps(cells: int, finer: int) -> Tensor:
    """Return the share of each cell of a side that lies in each finer cell, (finer, cells)."""
    ends, finer_ends = torch.arange(cells + 1) / cells, torch.arange(finer + 1) / finer
    last = torch.minimum(finer_ends[1:, None].double(), ends[1:].double())
    first = torch.maximum(finer_ends[:-1, None].double(), ends[:-1].double())
    return (last - first).clamp(min=0) * cells
