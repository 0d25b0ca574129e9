"""JSON that other programs import, written an item at a time."""

from collections.abc import Callable
from pathlib import Path

from mlcrf.prediction.record import Prediction


class JsonItems:
    """One JSON value of many items, a line each.

    Args:
        begin, end: the text before and after the items.
        item: makes the text of an item from a prediction and its index.
    """

    def __init__(
        self, path: Path, begin: str, item: Callable[[Prediction, int], str], end: str
    ) -> None:
        self._stream = path.open("w", encoding="ascii", newline="\n")
        self._item, self._end, self._written = item, end, 0
        self._stream.write(begin)

    def write(self, prediction: Prediction) -> None:
        """Add an image."""
        text = self._item(prediction, self._written)
        self._stream.write((",\n" if self._written else "\n") + text)
        self._written += 1

    def close(self) -> None:
        """End the value; also after an error, when the file is thrown away."""
        self._stream.write(f"\n{self._end}\n")
        self._stream.close()


def rounded(probability: float) -> float:
    """Return a probability to six digits."""
    return float(f"{probability:.6g}")
