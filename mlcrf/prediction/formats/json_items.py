"""JSON for other programs, written item by item."""

from collections.abc import Callable
from pathlib import Path

from mlcrf.prediction.record import Prediction


class JsonItems:
    """One JSON value of many items, one per line.

    Args:
        begin: the text before the items.
        item: formats an item from a prediction and its index.
        end: the text after the items.
    """

    def __init__(
        self, path: Path, begin: str, item: Callable[[Prediction, int], str], end: str
    ) -> None:
        self._stream = path.open("w", encoding="ascii", newline="\n")
        self._item, self._end, self._written = item, end, 0
        self._stream.write(begin)

    def write(self, prediction: Prediction) -> None:
        text = self._item(prediction, self._written)
        self._stream.write((",\n" if self._written else "\n") + text)
        self._written += 1

    def close(self) -> None:
        """End the value, also after an error, when the file is discarded."""
        self._stream.write(f"\n{self._end}\n")
        self._stream.close()


def rounded(probability: float) -> float:
    """Round a probability to six digits."""
    return float(f"{probability:.6g}")
