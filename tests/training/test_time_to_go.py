"""The time that the fits of a run still take: told by gradients first, then by fits that ended."""

import pytest

from mlcrf.training.time_to_go import Fits, FitsPlanned, TimeToGo


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def planned() -> tuple[TimeToGo, Clock]:
    """Three fits of 10 s, six of 2 s of which up to five may come late, two of 40 s."""
    clock = Clock()
    fits = {
        "independent": Fits(3, (5, 20), 1.0),
        "fold": Fits(6, (2, 2), 1.0, later=5),
        "exact-likelihood": Fits(2, (40, 40), 1.0),
    }
    return TimeToGo(FitsPlanned(fits), clock), clock


def test_before_any_fit_gradients_tell() -> None:
    to_go, clock = planned()
    assert to_go.seconds == pytest.approx(3 * 10 + 6 * 2 + 2 * 40)
    assert to_go.share == 0
    assert to_go.title == "at most 11 fits"
    to_go.at_work("independent on train, penalties 1 and 0", 0.0)
    assert to_go.title == "fit 1 of at most 11"
    assert to_go.seconds == pytest.approx(122)
    clock.now = 4
    assert to_go.seconds == pytest.approx(118)
    to_go.at_work("independent on train, penalties 1 and 0", 0.5)
    assert to_go.seconds == pytest.approx(4 + 112)  # its own pace
    assert to_go.share == pytest.approx(4 / 120)


def test_fits_that_ended_tell_the_others() -> None:
    """Those of a kind by their mean, other kinds by how much longer it took than told."""
    to_go, clock = planned()
    to_go.at_work("independent on train, penalties 1 and 0", 0.9)
    clock.now = 20
    to_go.at_work("independent on train, penalties 0.1 and 0", 0.0)
    assert to_go.title == "fit 2 of at most 11"
    assert to_go.seconds == pytest.approx(2 * (3 * 10 + 6 * 2 + 2 * 40) - 20)
    clock.now = 60  # twice as long as the first: 30 s on average, 3 times what was told
    to_go.ended()
    clock.now = 1000  # what is between fits is not theirs
    assert to_go.seconds == pytest.approx(30 + 3 * (6 * 2 + 2 * 40))


def test_fits_that_are_not_made_are_not_waited_for() -> None:
    """Nor are those of the schedule that is not chosen, once the final fit begins."""
    to_go, clock = planned()
    for name in ("independent on all", "fold 1 of 5 on train", "exact-likelihood on train"):
        to_go.at_work(name, 0.0)
        clock.now += {"i": 10, "f": 2, "e": 40}[name[0]]
    to_go.ended()
    assert to_go.seconds == pytest.approx(5 * 2 + 40)
    to_go.at_work("exact-likelihood on all", 0.0)
    assert to_go.seconds == pytest.approx(40)


def test_the_final_fit_of_the_other_schedule() -> None:
    to_go, clock = planned()
    for name in ("fold 1 of 5 on train", "exact-likelihood on train"):
        to_go.at_work(name, 0.0)
        clock.now += {"f": 2, "e": 40}[name[0]]
    to_go.at_work("fold 1 of 5 on all", 0.0)
    assert to_go.seconds == pytest.approx(3 * 10 + 5 * 2)


def test_a_fit_of_no_kind_is_judged_by_itself() -> None:
    to_go, clock = planned()
    to_go.at_work("stacked on train", 0.0)
    clock.now = 6
    to_go.at_work("stacked on train", 0.5)
    assert to_go.seconds == pytest.approx(122 + 6)
