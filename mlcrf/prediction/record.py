"""What is said of one image, and of the model that said it."""

from dataclasses import dataclass

from mlcrf.images import Image
from mlcrf.implications import Implications


@dataclass(frozen=True)
class Prediction:
    """The labels of one image, or the reason why it has none.

    Attributes:
        labels: those decided present.
        marginals: P(label present) under the CRF, by label.
        independent: the same under the independent baseline.
        confirmed: labels that a person said to be present; keywords of the image do not count.
        error: why there is no prediction; the other fields are empty then.
        listed: index among all images that were listed, where order has to be restored.
    """

    image: Image
    labels: tuple[str, ...] = ()
    marginals: tuple[float, ...] = ()
    independent: tuple[float, ...] = ()
    confirmed: tuple[str, ...] = ()
    error: str = ""
    listed: int = 0


@dataclass(frozen=True)
class Origin:
    """The model behind a table of predictions, as far as the table itself does not show it.

    Attributes:
        model: name of the run.
        digest: SHA-256 of its weights; empty if unknown.
        implications: between its labels; None if unknown.
    """

    model: str = ""
    digest: str = ""
    implications: Implications | None = None
