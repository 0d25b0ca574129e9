"""Explain the log-odds of one label by parts that add up.

    logit P(y_i = 1 | x, known) = unary_i + sum_j pairwise_ij integral_0^1 E_t[y_j] dt + rules

E_t is the expectation under the CRF given what is known and y_i = 1, with label i's couplings
multiplied by t. It holds because the log-odds are unary_i + log E_0[exp(sum_j pairwise_ij y_j)],
and the derivative of log E_0[exp(t sum_j pairwise_ij y_j)] is sum_j pairwise_ij E_t[y_j]. A known
label has E_t[y_j] = y_j, so its part is its coupling if it is present, and 0 if it is absent.

`rules` is the part of rules, which allow other states with label i than without it. P_0 is the CRF
of the other labels without label i and its rules:

    rules = log P_0(states that rules allow with i) - log P_0(states that rules allow without i)

or, with soft rules, the log of the expectation of what they let through.

The parts of the other labels are integrated gradients of log Z along the straight line from no
couplings of label i to its couplings.

Source: Sundararajan, Taly and Yan, Axiomatic attribution for deep networks (2017), section 3.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mlcrf.crf import UNKNOWN, Potentials, check_known
from mlcrf.errors import PotentialsError
from mlcrf.inference.automatic import ExactOrGibbs
from mlcrf.inference.gibbs_sampling import Gibbs
from mlcrf.inference.posterior import InferenceMethod, LogPartitionKind

_FEWEST_NODES, _MOST_NODES = 8, 128
_TOLERANCE = 1e-5  # nats; the integral is exact enough if twice the nodes change no part by more


@dataclass(frozen=True)
class Explanation:
    """The parts of a label's log-odds given what is known of the other labels, in nats.

    Attributes:
        log_odds: the sum of all parts; infinite if other labels settle the label.
        unary: the label's log-odds on its own: the image and how frequent the label is.
        by_label: part of every other label, float64 (L,).
        known: the other labels that are known, closed under the rules: 1, 0 and -1 (L,).
        rules: part of the rules, infinite if they settle the label.
        unexplained: the remainder: below 1e-4 for exact inference, else the error of the method.
        settled_by: known labels from which the label follows; then `by_label` is 0.
    """

    log_odds: float
    unary: float
    by_label: Tensor
    known: Tensor
    rules: float = 0.0
    unexplained: float = 0.0
    settled_by: tuple[int, ...] = ()


@torch.no_grad()
def explain_label(
    method: InferenceMethod,
    potentials: Potentials,
    label: int,
    *,
    known: Tensor | None = None,
    image: int = 0,
) -> Explanation:
    """Return the parts of a label's log-odds in one image.

    What is known of the label itself is left out. With an approximate method, the log-odds are
    those of its marginal (within 16 nats), and the parts leave a remainder, `unexplained`.

    Args:
        method: as made by `make_inference`, not prepared.
        potentials: one CRF, (1, L).
        known: 1, 0 and -1 (1, L).
        image: number of the random stream of `Gibbs`.

    Raises:
        PotentialsError: a mixture over scenes, or `known` contradicts the rules.

    Cost: inference on 27 images that know one label more, usually.
    """
    if not potentials.has_log_score:
        raise PotentialsError("no explanation: the model is a mixture over scenes, not one CRF")
    given = check_known(potentials, None) if known is None else known.clone()
    given[:, label] = UNKNOWN
    given = check_known(potentials, given)
    unary = float(potentials.unary[0, label])
    if given[0, label] != UNKNOWN:
        infinite = torch.inf if given[0, label] == 1 else -torch.inf
        nothing = torch.zeros(potentials.num_labels, dtype=torch.float64)
        causes = _causes(potentials, given[0], label)
        return Explanation(infinite, unary, nothing, given[0], infinite, settled_by=causes)
    if isinstance(method, ExactOrGibbs):
        ((method, _),) = method.split(potentials, given)
    if not isinstance(method, Gibbs):  # which draws from float32
        potentials = replace(
            potentials, unary=potentials.unary.double(), pairwise=potentials.pairwise.double()
        )
    return _Parts(method, potentials, given, label, image).explanation()


def _causes(potentials: Potentials, given: Tensor, label: int) -> tuple[int, ...]:
    """Return the known labels from which a label follows."""
    rules = potentials.rules
    related = rules.with_children([label]) if given[label] == 1 else rules.with_parents([label])
    causes = {one for one in related - {label} if given[one] == given[label]}
    for limit in rules.hard_limits:
        if not causes and label in limit.labels:
            others = [one for one in limit.labels if one != label]
            present = [one for one in others if given[one] == 1]
            absent = [one for one in others if given[one] == 0]
            if given[label] == 0 and len(present) >= limit.most:
                causes.update(present)
            if given[label] == 1 and len(limit.labels) - len(absent) <= limit.least:
                causes.update(absent)
    if not causes:  # several rules together
        (group,) = (one for one in rules.linked(len(given)) if label in one)
        causes = {one for one in group if one != label and given[one] != UNKNOWN}
    return tuple(sorted(causes))


@dataclass(frozen=True)
class _Parts:
    """One question: a label of an image, given others, by a method."""

    method: InferenceMethod
    potentials: Potentials
    given: Tensor
    label: int
    image: int

    def explanation(self) -> Explanation:
        unary = float(self.potentials.unary[0, self.label])
        by_label = self._integrate(_FEWEST_NODES)
        log_z = self._log_partitions()
        if log_z is None:
            log_odds, rules = self._marginal_logit(self.potentials), self._approximate_rules()
        else:
            by_label = self._refine(by_label)
            without, whole, absent = log_z.tolist()
            log_odds = whole - absent
            rules = without - unary - absent if self._is_in_rules else 0.0
        unexplained = log_odds - unary - float(by_label.sum()) - rules
        return Explanation(log_odds, unary, by_label, self.given[0], rules, unexplained)

    @cached_property
    def _coupling(self) -> Tensor:
        """The label's couplings with all labels, (L,)."""
        pairwise = self.potentials.pairwise.reshape(-1)
        result = torch.zeros_like(self.potentials.unary[0])
        for ends, others in (self.potentials.edges.T, self.potentials.edges.T.flip(0)):
            result[others[ends == self.label]] = pairwise[ends == self.label]
        return result

    @property
    def _is_in_rules(self) -> bool:
        return any(self.label in group for group in self.potentials.rules.groups)

    def _present(self, scales: Tensor) -> Potentials:
        """Return CRFs with the label's couplings multiplied by scales, right if it is present."""
        rows = self.potentials.rows(torch.zeros(len(scales), dtype=torch.int64))
        return replace(rows, unary=rows.unary - (1 - scales.unsqueeze(1)) * self._coupling)

    def _known(self, *values: int) -> Tensor:
        """Return what is known, with each of the values for the label (n, L)."""
        rows = self.given.repeat(len(values), 1)
        rows[:, self.label] = torch.tensor(values)
        return rows

    def _integrate(self, count: int) -> Tensor:
        """Return the parts of the other labels by Gauss-Legendre quadrature, (L,)."""
        places, weights = np.polynomial.legendre.leggauss(count)
        scales = torch.from_numpy((places + 1) / 2).to(self._coupling)
        marginals = self._marginals(self._present(scales), self._known(*[1] * count))
        part: Tensor = torch.from_numpy(weights / 2) @ marginals * self._coupling.double()
        return part

    def _refine(self, by_label: Tensor) -> Tensor:
        """Double the nodes until that changes no part."""
        count, change = _FEWEST_NODES, torch.inf
        while change > _TOLERANCE and count < _MOST_NODES:
            count, before = 2 * count, by_label
            by_label = self._integrate(count)
            change = float((by_label - before).abs().max())
        return by_label

    def _log_partitions(self) -> Tensor | None:
        """Return exact log Z with the label, without and with its couplings, and without it.

        None if the method is not exact.
        """
        if isinstance(self.method, Gibbs):
            return None
        rows = self._present(torch.tensor([0.0, 1.0, 1.0]).to(self._coupling))
        posterior = self.method(rows, known=self._known(1, 1, 0))
        is_exact = posterior.log_partition_kind is LogPartitionKind.EXACT
        return posterior.log_partition if is_exact else None

    def _marginals(self, potentials: Potentials, known: Tensor) -> Tensor:
        """Return P(y_j = 1), float64 (n, L); the same random stream for all."""
        if isinstance(self.method, Gibbs):
            stream = torch.full((len(known),), self.image)
            return self.method.draw(potentials, known=known, images=stream).marginals.double()
        return self.method(potentials, known=known).marginals.double()

    def _marginal_logit(self, potentials: Potentials) -> float:
        p = self._marginals(potentials, self.given)[0, self.label]
        return float(p.logit(eps=torch.finfo(torch.float32).eps))

    def _approximate_rules(self) -> float:
        """Return the log-odds of the label without its own and its couplings."""
        if not self._is_in_rules:
            return 0.0
        unary = self.potentials.unary.clone()
        unary[:, self.label] = 0
        is_other = (self.potentials.edges != self.label).all(1)
        pairwise = self.potentials.pairwise * is_other
        return self._marginal_logit(replace(self.potentials, unary=unary, pairwise=pairwise))
