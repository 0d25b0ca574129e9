"""Costs of wrong decisions, and the label sets of least expected cost."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Real

import torch
from torch import Tensor

from mlcrf.choices import MOST_COST
from mlcrf.decoding.admissible import Admissible
from mlcrf.errors import LabelsError, SettingsError
from mlcrf.hints import did_you_mean
from mlcrf.labels import LabelSpace

ANY_LABEL = "*"  # stands for all labels that are not named
_DIGITS = 8  # of the digest in a signature


@dataclass(frozen=True)
class Costs:
    """Costs of a decision on each label.

    Attributes:
        labels: label names (L,).
        false, missed: cost of writing a label that is absent, and of not writing one that is
            present (L,).
        abstain: cost of leaving a label open; None where it is never left open (L,).
        name: name of the file of the costs.

    Raises:
        SettingsError: a cost is negative, not finite or above 1e12, or their numbers differ.
    """

    labels: tuple[str, ...]
    false: tuple[float, ...]
    missed: tuple[float, ...]
    abstain: tuple[float | None, ...]
    name: str = "costs"

    def __post_init__(self) -> None:
        if not len(self.labels) == len(self.false) == len(self.missed) == len(self.abstain):
            raise SettingsError("costs: expected as many numbers of each kind as labels")
        for kind in ("false", "missed", "abstain"):
            for label, cost in zip(self.labels, getattr(self, kind), strict=True):
                if cost is not None and (fault := cost_fault(cost)):
                    raise SettingsError(f"costs: {kind} of {label!r}: {fault}")

    @classmethod
    def of(
        cls,
        given: Mapping[str, Sequence[float | None]],
        labels: Iterable[str],
        abstain: float | None = None,
        name: str = "costs",
    ) -> "Costs":
        """Return the costs of all labels, given by name.

        Args:
            given: label -> (false, missed) or (false, missed, abstain); the label `*` stands for
                all that are not named.
            abstain: cost of leaving a label open for which `given` has none.

        Raises:
            LabelsError: an unknown label, or one without costs.
            SettingsError: no two or three numbers, or see above.
        """
        names = tuple(labels)
        for label, row in given.items():
            if label != ANY_LABEL and label not in names:
                raise LabelsError(f"costs: unknown label {label!r}{did_you_mean(label, names)}")
            if not _are_costs(row):
                raise SettingsError(
                    f"costs: {label!r}: expected (false, missed) or (false, missed, abstain)"
                )
        require_all(given, names)
        rows = [(*given.get(label, given.get(ANY_LABEL, ())), None)[:3] for label in names]
        false, missed, own = zip(*rows, strict=True)
        return cls(
            names,
            tuple(map(float, false)),
            tuple(map(float, missed)),
            tuple(abstain if one is None else float(one) for one in own),
            name,
        )

    @property
    def abstains(self) -> bool:
        """Return whether some label may be left open."""
        return any(cost is not None for cost in self.abstain)

    def ordered(self, labels: LabelSpace) -> "Costs":
        """Return the same costs in the order of these labels.

        Raises:
            LabelsError: other labels.
        """
        if self.labels == labels.names:
            return self
        try:
            at = labels.columns_in(self.labels)
        except LabelsError as error:
            raise LabelsError(f"{self.name}: costs of other labels: {error}") from error
        return Costs(
            labels.names,
            tuple(self.false[column] for column in at),
            tuple(self.missed[column] for column in at),
            tuple(self.abstain[column] for column in at),
            self.name,
        )

    def and_never(self, names: Sequence[str]) -> "Costs":
        """Return the costs of these labels and of further ones, which are never written."""
        count = len(names)
        return Costs(
            (*self.labels, *names),
            (*self.false, *[1.0] * count),
            (*self.missed, *[0.0] * count),
            (*self.abstain, *[None] * count),
            self.name,
        )

    def rows(self) -> list[list[float]]:
        """Return the costs of false, missed and open labels, 3 lists (L,); infinity: never open."""
        never = float("inf")
        return [
            list(self.false),
            list(self.missed),
            [never if cost is None else cost for cost in self.abstain],
        ]

    def __str__(self) -> str:
        """The part of a signature: the name, and the first digits of a digest of all numbers."""
        values = {key: value for key, value in asdict(self).items() if key != "name"}
        digest = hashlib.sha256(json.dumps(values).encode()).hexdigest()
        return f"costs:{self.name}@{digest[:_DIGITS]}"


def cost_fault(cost: float) -> str:
    """Return the reason why a number is no cost, or an empty text."""
    if 0 <= cost <= MOST_COST:
        return ""
    return f"expected a number from 0 to {MOST_COST:g}, got {cost:g}"


def _are_costs(row: object) -> bool:
    """Return whether a row has two numbers, and perhaps a third or None."""
    if isinstance(row, str) or not isinstance(row, Iterable):
        return False
    numbers = list(row)
    if len(numbers) == 3 and numbers[2] is None:
        del numbers[2]
    return len(numbers) in (2, 3) and all(isinstance(one, Real) for one in numbers)


def require_all(named: Iterable[str], labels: Iterable[str]) -> None:
    """Require that each label is named, or `*` is.

    Raises:
        LabelsError: a label has no costs.
    """
    names = set(named)
    missing = [label for label in labels if label not in names]
    if missing and ANY_LABEL not in names:
        more = f" and {len(missing) - 1} more labels" if len(missing) > 1 else ""
        raise LabelsError(
            f"has no costs of {missing[0]!r}{more}; add them, or a row of {ANY_LABEL} for all "
            "labels that are not named"
        )


def minimise_expected_cost(
    marginals: Tensor, costs: Costs, admissible: Admissible
) -> tuple[Tensor, Tensor]:
    """Return label sets of least expected cost: 1 written, 0 not written, -1 left open.

    The expectation is a sum over labels, so marginals are all it needs. With p_i = P(y_i = 1):

        cost_i(1) = (1 - p_i) false_i,      cost_i(0) = p_i missed_i,      cost_i(-1) = abstain_i

    and without rules each label has the least of its three costs; of equal ones 0 is taken before
    -1 before 1. A known label is never left open and costs nothing.

    Under rules and limits the least sum over all decisions is searched in which

    - some label set that keeps to the known labels and the rules agrees with all that is decided;
    - nothing that follows by the rules from what is decided is left open, so that a label that is
      written brings the labels that it implies;
    - the number of written labels is within the limits.

    Exact where the states of linked labels are listed, see `SizedSets`. Where they are too many,
    labels are settled one after the other, the one first that has most to lose; of the label set
    found, those labels are left open whose cost is above that of leaving them open, if nothing
    decides them. This may cost more than the best.

    Args:
        marginals: (N, L).

    Returns:
        Decisions, int64 (N, L), and their expected cost, float64 (N,).

    Source: Elkan (2001), The foundations of cost-sensitive learning; Chow (1970), On optimum
    recognition error and reject tradeoff.
    """
    known = admissible.known
    p = torch.where(known < 0, marginals.double(), known.double())
    false, missed, abstain = p.new_tensor(costs.rows())
    written, absent = (1 - p) * false, p * missed
    still_open = torch.where(known < 0, abstain, torch.inf)
    states = admissible.best(absent - written, absent - still_open if costs.abstains else None)
    cost = torch.where(states == 1, written, torch.where(states == 0, absent, still_open))
    return states, cost.sum(-1)
