"""The prediction of one image, and the model that made it."""

from dataclasses import dataclass

from mlcrf.images import Image
from mlcrf.rules import Rules


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
