"""The fits that a training run has ahead of it, and an estimate of the time that they take."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic

_SHARE_TO_JUDGE = 0.2  # of a fit, from which its own pace says more than that of others


@dataclass(frozen=True)
class Fits:
    """The fits of one kind that are still to be made.

    Attributes:
        count: their number at most.
        gradients: gradients of each, at least and at most as a rule.
        gradient_s: seconds of a gradient over all images.
        later: how many may come after fits of other kinds have begun.
    """

    count: int
    gradients: tuple[int, int]
    gradient_s: float
    later: int = 0

    @property
    def expected_s(self) -> float:
        """The seconds that one of them may take."""
        return math.sqrt(self.gradients[0] * self.gradients[1]) * self.gradient_s


@dataclass(frozen=True)
class FitsPlanned:
    """The fits of a run, by kind; the name of a fit begins with its kind."""

    fits: Mapping[str, Fits]

    def __str__(self) -> str:
        return describe_fits(self.fits)


def describe_fits(fits: Mapping[str, Fits]) -> str:
    """Return the fits to make and the time that they may take, in one line."""
    counts = ", ".join(f"{one.count} {kind}" for kind, one in fits.items())
    low, high = (
        sum(one.count * one.gradients[end] * one.gradient_s for one in fits.values())
        for end in (0, 1)
    )
    total = sum(one.count for one in fits.values())
    return f"fits to make: at most {total} ({counts}); this may take {_range(low, 1.5 * high)}"


class TimeToGo:
    """Estimate of the time that the fits of a run still take.

    A fit takes as long as the finished ones of its kind did on average. Before there are any, it
    takes what its gradients do, times the factor by which fits so far took longer than that.

    Args:
        clock: seconds from any start, for tests.

    Attributes:
        number, total: of the fit at work, from 1, and of all fits at most.
    """

    def __init__(self, planned: FitsPlanned, clock: Callable[[], float] = monotonic) -> None:
        self._fits, self._clock = dict(planned.fits), clock
        self._left = {kind: one.count for kind, one in self._fits.items()}
        self._taken: dict[str, list[float]] = {}
        self._kind, self._fit, self._share = "", "", 0.0
        self._began = self._first = clock()
        self.number, self.total = 0, sum(self._left.values())

    def at_work(self, fit: str, share: float) -> None:
        """Note that a share of a fit is done; another fit than before begins now."""
        if fit != self._fit:
            self.ended()
            self._begin(fit)
        self._share = share

    def ended(self) -> None:
        """Note that the fit at work has ended, if there is one."""
        if self._fit and self._kind in self._fits:
            self._taken.setdefault(self._kind, []).append(self._clock() - self._began)
        self._fit, self._share = "", 0.0

    def _begin(self, fit: str) -> None:
        kind = next((one for one in self._fits if fit.startswith(f"{one} ")), "")
        if kind != self._kind and self._kind in self._fits:
            self._left[self._kind] = min(self._left[self._kind], self._fits[self._kind].later)
        if " on all" in fit:  # the final fit of the chosen schedule: none of the other comes
            is_later = bool(kind) and self._fits[kind].later > 0
            for other in self._taken:
                if other != kind and (self._fits[other].later > 0) != is_later:
                    self._left[other] = 0
        self._fit, self._kind, self._began = fit, kind, self._clock()
        self._left[kind] = max(0, self._left.get(kind, 0) - 1)
        self.number = min(self.number + 1, self.total)

    @property
    def title(self) -> str:
        """The fit at work among all."""
        if not self.number:
            return f"at most {self.total} fits"
        return f"fit {self.number} of at most {self.total}"

    @property
    def seconds(self) -> float:
        """The seconds that the fit at work and all after it may take."""
        ahead = sum(self._left.get(kind, 0) * self._each(kind) for kind in self._fits)
        return ahead + (self._of_this() if self._fit else 0.0)

    @property
    def share(self) -> float:
        """The share of the time of all fits that has passed."""
        passed, left = self._clock() - self._first, self.seconds
        return passed / (passed + left) if passed else 0.0

    def _of_this(self) -> float:
        passed = self._clock() - self._began
        if self._share >= _SHARE_TO_JUDGE or self._kind not in self._fits:
            return passed * (1 - self._share) / max(self._share, _SHARE_TO_JUDGE)
        return max(0.0, self._each(self._kind) - passed)

    def _each(self, kind: str) -> float:
        taken = self._taken.get(kind, [])
        if taken:
            return sum(taken) / len(taken)
        told = sum(self._fits[one].expected_s * len(its) for one, its in self._taken.items())
        took = sum(map(sum, self._taken.values()))
        return self._fits[kind].expected_s * (took / told if told else 1.0)


def _range(low: float, high: float) -> str:
    if high < 5:
        return "a few seconds"
    if high < 120:
        return f"{max(1, low):.0f} to {high:.0f} s"
    if high < 7200:
        return f"{max(1, low / 60):.0f} to {high / 60:.0f} min"
    return f"{max(0.1, low / 3600):.1f} to {high / 3600:.1f} h"
