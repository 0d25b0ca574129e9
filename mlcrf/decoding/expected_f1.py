"""The label set of highest expected F1."""

import torch
from torch import Tensor

from mlcrf.decoding.admissible import Admissible
from mlcrf.decoding.counts import count_probabilities


def maximise_expected_f1(
    count_marginals: Tensor, empty: Tensor, admissible: Admissible | None = None
) -> tuple[Tensor, Tensor]:
    """Return label sets h of highest expected F1(h, y) = 2 |h & y| / (|h| + |y|).

    The general F-measure maximiser. For sets of k labels the expectation is a sum over them,

        E F1(h, y) = sum_{i in h} gain_ik,      gain_ik = sum_s 2 P(y_i = 1, |y| = s) / (s + k)

    so the best k labels are those of highest gain, and the best set is the best over k. F1 of two
    empty sets is 1, so the empty set has P(|y| = 0). Ties go to the smallest set.

    Also exact among the admissible sets: under implications if the beliefs obey them and the known
    labels, because a certain label then has the highest gain, and a parent no less than its child
    (otherwise known labels and parents still come first); under limits on groups by a search over
    the sets of each size, where groups are small enough to list.

    Args:
        count_marginals: P(y_i = 1, |y| = s) (N, L, C); see `mlcrf.decoding.counts`.
        empty: P(|y| = 0) (N,).
        admissible: which sets may be chosen; all if None.

    Returns:
        Label sets, int64 (N, L), and their expected F1, float64 (N,).

    Cost: O(L C + L log L) per image and k. k stops where even a set that contains all of y would
    not be better: long before L if few of many labels are present.

    Sources: Dembczynski, Waegeman, Cheng and Huellermeier (2011), An exact algorithm for
    F-measure maximization; Waegeman et al. (2014), On the Bayes-optimality of F-measure
    maximizers.
    """
    count_marginals, empty = count_marginals.double(), empty.double()
    num_images, num_labels, width = count_marginals.shape
    if admissible is None:
        admissible = Admissible(torch.full((num_images, num_labels), -1, device=empty.device))
    fewest, most = admissible.fewest, admissible.most
    sizes = torch.arange(width, device=empty.device, dtype=torch.float64)
    of_size = count_probabilities(count_marginals)
    states = torch.zeros((num_images, num_labels), dtype=torch.int64, device=empty.device)
    nothing = torch.from_numpy(admissible.rules.obeyed_by(states[:1].byte().cpu().numpy()))
    value = torch.where((fewest == 0) & nothing.to(empty.device), empty, -torch.inf)
    for k in range(1, num_labels + 1):
        # no set of k labels or more has a higher expectation: F1 <= 2 |y| / (k + |y|)
        bound = of_size @ (2 * sizes / (k + sizes))
        if bool((most < k).all()) or bool((value >= bound).all()):
            break
        gain = count_marginals @ (2 / (k + sizes))
        chosen, total = _best(admissible, gain, k)
        better = (total > value) & (fewest <= k) & (k <= most)
        states = torch.where(better[:, None], chosen, states)
        value = torch.where(better, total, value)
    return states, value


def _best(admissible: Admissible, gain: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the sets of one size with the highest gain (N, L), and their gain (N,)."""
    found = admissible.best_of_size(gain, size) if admissible.rules.hard_limits else None
    if found is not None:
        return found
    best = admissible.order(gain)[:, :size]
    chosen = torch.zeros(gain.shape, dtype=torch.int64, device=gain.device).scatter(1, best, 1)
    return chosen, gain.gather(1, best).sum(1)
