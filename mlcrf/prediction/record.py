"""The prediction of one image, and the model that made it."""

from dataclasses import dataclass

from mlcrf.images import Image
from mlcrf.rules import Rules

MOST_SETS = 2**62  # more label sets of a family are not counted


@dataclass(frozen=True)
class Family:
    """The label sets that hold the right one with a promised probability, written compactly.

    Labels that are neither in `present` nor `open` are in none of the sets.

    Attributes:
        present: labels that all sets have.
        open: labels that some of the sets have.
        sets: number of sets; 2^62 if there are more.
        is_exact: whether this is exact, or estimated from samples.
    """

    present: tuple[str, ...]
    open: tuple[str, ...]
    sets: int
    is_exact: bool = True


@dataclass(frozen=True)
class Prediction:
    """The labels of one image, or the reason why there are none.

    Attributes:
        labels: labels decided present.
        marginals: P(label present) under the CRF, per label.
        independent: P(label present) under the independent baseline, per label.
        confirmed: labels that a person confirmed; keywords of the image do not count.
        abstained: labels that are left open, because leaving them open costs least.
        information: of an answer about each label, in nats (see `mlcrf.inference.questions`); empty
            unless the tagger was asked for it.
        error: why there is no prediction; the other fields are then empty.
        listed: index among all listed images, to restore the order.
        family: label sets that hold the right one with a promised probability; None if none is
            asked for.
    """

    image: Image
    labels: tuple[str, ...] = ()
    marginals: tuple[float, ...] = ()
    independent: tuple[float, ...] = ()
    confirmed: tuple[str, ...] = ()
    abstained: tuple[str, ...] = ()
    information: tuple[float, ...] = ()
    error: str = ""
    listed: int = 0
    family: Family | None = None


@dataclass(frozen=True)
class Origin:
    """The model that made a table of predictions.

    Attributes:
        model: name of the run.
        digest: SHA-256 of the weights; empty if unknown.
        rules: rules between the labels; None if unknown.
        decision: signature of the decision rule if it promises something or has costs; else empty.
    """

    model: str = ""
    digest: str = ""
    rules: Rules | None = None
    decision: str = ""
