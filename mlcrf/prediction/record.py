"""What is said of one picture, on its way from the model to every output."""

from dataclasses import dataclass
from typing import Protocol

from mlcrf.images import Image


@dataclass(frozen=True)
class Prediction:
    """What is said of one picture.

    Attributes:
        image: the image itself.
        labels: those decided present.
        marginals: P(label present) under the CRF, by label.
        independent: the same under the independent baseline.
        confirmed: those that were said to be present; not those of which only keywords say so.
        error: why there is no prediction; the rest is empty then.
        listed: its place in the listing of all pictures, where that matters.
    """

    image: Image
    labels: tuple[str, ...] = ()
    marginals: tuple[float, ...] = ()
    independent: tuple[float, ...] = ()
    confirmed: tuple[str, ...] = ()
    error: str = ""
    listed: int = 0


class Rows(Protocol):
    """A file that takes predictions one by one."""

    def write(self, prediction: Prediction) -> None:
        """Add one."""
        ...

    def close(self) -> None:
        """End the file."""
        ...
