"""The halves and the kernel of one call of exact inference, kept for the next."""

import torch
from torch import Tensor

from mlcrf.inference.exact.split_enumeration import Split
from mlcrf.rules import Rules


class SharedSplit:
    """The split of the last couplings, for calls with the same ones, as for parts of a data set.

    So the kernel is computed once, and half-states are sorted once, by images of the first call
    that sorts them. Couplings of another number of labels than the first ones, as those of images
    of which some labels are known, are not kept. Not thread-safe; memory of 4 bytes x 2^L.
    """

    def __init__(self) -> None:
        self._split: Split | None = None
        self._key: tuple[int, Rules, int] | None = None

    def find(self, matrix: Tensor, rules: Rules, *, first_level: int) -> Split:
        """Return the kept split if it is that of these couplings (L, L), else a new one."""
        key = len(matrix), rules, first_level
        if self._key is not None and key != self._key:
            return Split(matrix, rules, first_level=first_level)
        if self._split is None or not torch.equal(self._split.matrix, matrix.double()):
            self._split = None  # its memory serves the next
            self._split, self._key = Split(matrix, rules, first_level=first_level), key
        return self._split
