"""Labels learned within seconds from a few answers about the images of an archive.

A new label's log-odds are linear in the features, with a Gaussian prior whose axes are the widest
principal axes of the archive and what a model that is there says of its own labels: a label that is
like one that is known needs few answers. A label of the model is drawn towards what the model says.
How wide the priors are is chosen by the loss of each answer under a fit without it, in closed form.
A label of the model moves only if these losses fall by more than chance explains.

Couplings of new labels are learned on these left-out log-odds, from images in which both labels are
answered; their strength is chosen by folds of images, none included.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.errors import RunError
from mlcrf.labels import UNKNOWN
from mlcrf.model import LabelCrf, no_edges
from mlcrf.rules import Rules
from mlcrf.training.answer_couplings import learn_couplings, log_odds_given_others
from mlcrf.training.laplace import fit_laplace

_MOST_AXES = 512
_MOST_MEASURED = 10_000  # images from which the axes are computed
# Prior variances of a label's log-odds: from the axes, the model's labels, and a constant.
_OF_AXES = (1.0, 3.0, 10.0, 30.0)
_OF_MODEL, _OF_CONSTANT = 0.5, 2.0
# The same for a label that the model knows, as factors of (10, 0, 1).
_DEPARTURES = (0.01, 0.1, 1.0)
_STANDARD_ERRORS = 2.0  # by which a gain on answers must exceed 0
_FEWEST_TOGETHER = 3  # images in which both labels of a new coupling are answered
_MOST_COMPARED = 2000  # answers about a label from which the prior's width is chosen
_CONSTANT = 1e-6  # largest spread of a constant feature relative to its mean
_LEAST = 1e-12
# With fewer answers of no, images drawn by chance count as answered no: two for each answer of yes.
_FEWEST_NO, _ASSUMED, _ASSUMED_IMAGES = 2, 2.0, 40
_PASSED_OVER = 500  # images drawn from those that somebody who corrects mistakes passed over


@dataclass(frozen=True)
class Taught:
    """Models of an archive's labels, after some answers.

    Attributes:
        columns: columns of the answers that the models know, in their order (K,): the labels of the
            model that was there first, then those with an answer.
        crf: the CRF over these labels.
        independent: the same without couplings.
        log_odds: of the independent model, each answered label's by a fit without this answer
            (N, K).
        given_others: the same, given what is answered about an image's other labels (N, K).
        base_rate: mean probability of each label in the archive, which new couplings are relative
            to (K,).
        moved: whether answers moved the unary; always for a new label (K,).
        by_chance: whether thresholds can be tuned on the answers, which are not those of mistakes
            only (K,).
    """

    columns: Tensor
    crf: LabelCrf
    independent: LabelCrf
    log_odds: Tensor
    given_others: Tensor
    base_rate: Tensor
    moved: Tensor
    by_chance: Tensor


@dataclass(frozen=True)
class _Fit:
    """A label as learned from its answers.

    Attributes:
        answers: of all images (N,).
        rows: the answered images (n,).
        weights: of the scaled inputs (D',).
        left_out: log-odds of the answered images by fits without them (n,).
        loss: of these, summed, with the images that count as answered.
        cost: added loss of the images that count as the model says, by a label that it knows.
        unseen: number of these images.
    """

    answers: Tensor
    rows: Tensor
    weights: Tensor
    left_out: Tensor
    loss: float
    cost: float
    unseen: float


class Teacher:
    """Labels of an archive, learned from answers; fits again only what new answers change.

    Args:
        features: of all images of the archive, answered or not (N, D).
        model, baseline: a CRF and its independent baseline to start from; None starts without
            labels.
        log_odds: of the CRF's marginals where nothing is known (N, L0).

    Raises:
        RunError: the model's unaries are not linear, or its couplings vary by image.

    Cost: O(min(N, 10,000) D^2). Memory: 600 numbers per image.
    """

    def __init__(
        self,
        features: NDArray[np.float32],
        model: LabelCrf | None = None,
        baseline: LabelCrf | None = None,
        log_odds: Tensor | None = None,
    ) -> None:
        self._model, self._baseline = model, baseline
        self._num_known = 0 if model is None else model.num_labels
        if model is not None:
            require_teachable(model)
        self._map, self._shift, self._num_axes = _input_map(features, baseline)
        self._inputs = torch.from_numpy(features) @ self._map.float() + self._shift.float()
        self._offset = None if log_odds is None else log_odds.double()
        self._fits: dict[tuple[int, float], _Fit] = {}
        self._drawn = _drawn(len(features), len(features))
        self._fit_begins: Callable[[], None] = lambda: None

    def learn(
        self,
        answers: Tensor,
        *,
        error_rate: float = 0.0,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Taught | None:
        """Return models that follow from all answers so far; None if they know no label.

        Args:
            answers: 1, 0 or -1 for unknown, int64 (N, L), L >= L0; the first L0 labels are those
                of the model.
            error_rate: see `learn_couplings`; unaries take all answers as right.
            progress: called with the number of a label's fits that are begun, and of all.

        Cost: O(n D'^2) for each label with n new or old answers if one of them is new, with
            D' = min(n, 600), then O(N D' L).
        """
        known = range(self._num_known)
        new = [
            label
            for label in range(self._num_known, answers.shape[1])
            if bool((answers[:, label] != UNKNOWN).any())
        ]
        corrected = [label for label in known if bool((answers[:, label] != UNKNOWN).any())]
        begun = itertools.count(1)
        total = len(new) * (len(_OF_AXES) + 1) + len(corrected) * (len(_DEPARTURES) + 1)
        self._fit_begins = lambda: progress(next(begun), total)
        unseen = self._count_unseen(corrected, answers)
        departure = self._choose_departure(corrected, answers, unseen)
        width = self._choose_width(new, answers)
        changed = corrected if departure else []
        columns = torch.tensor([*known, *new], dtype=torch.int64)
        if not len(columns):
            return None
        steps = torch.zeros(self._map.shape[1], len(columns), dtype=torch.float64)
        left_out: dict[int, tuple[Tensor, Tensor]] = {}
        for at, label in enumerate(columns.tolist()):
            if label in changed or label >= self._num_known:
                scale = departure if label < self._num_known else width
                fit = self._fit(label, scale, answers[:, label], unseen.get(label, 0))
                steps[:, at] = fit.weights * self._deviations(label, scale)
                left_out[at] = fit.rows, fit.left_out
        log_odds = (self._inputs @ steps.float()).double()
        if self._offset is not None:
            log_odds[:, : self._num_known] += self._offset
        base_rate = log_odds.sigmoid().mean(0)
        for at, (rows, values) in left_out.items():
            log_odds[rows, at] = values
        given = answers[:, columns]
        edges, pairwise = self._couple(log_odds, given, base_rate, error_rate)
        given_others = log_odds_given_others(log_odds, given, base_rate, edges, pairwise)
        nothing = no_edges(), torch.zeros(0)
        independent = self._make_model(self._baseline, steps, *nothing, base_rate)
        crf = self._make_model(self._model, steps, edges, pairwise, base_rate)
        moved = torch.tensor([at in left_out for at in range(len(columns))])
        by_chance = torch.tensor([not unseen.get(label) for label in columns.tolist()])
        return Taught(
            columns,
            crf,
            independent,
            log_odds.float(),
            given_others.float(),
            base_rate,
            moved,
            by_chance,
        )

    def _choose_width(self, new: Sequence[int], answers: Tensor) -> float:
        """Return the prior variance of new labels of lowest left-out loss, summed over them."""

        def loss(scale: float) -> float:
            fits = (self._fit(label, scale, self._some(answers[:, label])) for label in new)
            return sum(one.loss for one in fits)

        return min(_OF_AXES, key=loss)

    def _choose_departure(
        self, corrected: Sequence[int], answers: Tensor, unseen: Mapping[int, float]
    ) -> float:
        """Return how far labels of the model may move, 0 if answers do not show that they should.

        The gain in left-out loss, summed over the labels of an image, must in sum exceed two
        standard errors. These are taken about 0, so that it takes five images at least.
        """
        best, largest = 0.0, 0.0
        for scale in _DEPARTURES if corrected else ():
            gains, cost = torch.zeros(len(answers), dtype=torch.float64), 0.0
            for label in corrected:
                fit = self._fit(label, scale, self._some(answers[:, label]), unseen[label])
                assert self._offset is not None
                targets = answers[fit.rows, label].double()
                before = _losses(self._offset[fit.rows, label], targets)
                gains[fit.rows] += before - _losses(fit.left_out, targets)
                cost += fit.cost
            gain = float(gains.sum()) - cost
            if gain > max(largest, _STANDARD_ERRORS * float(gains.square().sum().sqrt())):
                best, largest = scale, gain
        return best

    def _count_unseen(self, corrected: Sequence[int], answers: Tensor) -> dict[int, float]:
        """Return for each corrected label the number of images that count as the model says.

        Answers of which significantly more than half contradict the model were not given by chance:
        somebody corrected its mistakes, and passed over the rest. With as many mistakes as the
        model itself expects, this is how many images were passed over, if there are so many.
        """
        wrong, right, expected = {}, {}, {}
        for label in corrected:
            assert self._offset is not None
            rows = (answers[:, label] != UNKNOWN).nonzero().squeeze(1)
            said = self._offset[rows, label] > 0
            wrong[label] = int((said != (answers[rows, label] == 1)).sum())
            right[label] = len(rows) - wrong[label]
            p = self._offset[:, label].sigmoid()
            expected[label] = float(torch.minimum(p, 1 - p).mean())
        contradicted = [label for label in corrected if wrong[label] > right[label]]
        excess = sum(wrong[label] - right[label] for label in contradicted)
        count = sum(wrong[label] + right[label] for label in contradicted)
        if excess <= _STANDARD_ERRORS * count**0.5:
            return dict.fromkeys(corrected, 0.0)
        unseen = dict.fromkeys(corrected, 0.0)
        for label in contradicted:
            given = wrong[label] + right[label]
            unseen[label] = min(wrong[label] / expected[label], len(answers)) - given
        return unseen

    def _some(self, answers: Tensor) -> Tensor:
        """Return the answers about one label without those beyond 2,000."""
        rows = (answers != UNKNOWN).nonzero().squeeze(1)
        if len(rows) <= _MOST_COMPARED:
            return answers
        kept = rows[_drawn(len(rows), _MOST_COMPARED)]
        result = torch.full_like(answers, UNKNOWN)
        result[kept] = answers[kept]
        return result

    def _fit(self, label: int, scale: float, answers: Tensor, unseen: float = 0) -> "_Fit":
        """Return the fit of one label.

        Args:
            unseen: number of images that count as the model says.
        """
        self._fit_begins()
        before = self._fits.get((label, scale))
        if before is not None and torch.equal(before.answers, answers) and before.unseen == unseen:
            return before
        rows = (answers != UNKNOWN).nonzero().squeeze(1)
        others, supposed, counts = self._suppose(label, rows, answers[rows], unseen)
        used = torch.cat([rows, others])
        targets = torch.cat([answers[rows].double(), supposed])
        counts = torch.cat([torch.ones(len(rows), dtype=torch.float64), counts])
        offset = None
        if label < self._num_known:
            assert self._offset is not None
            offset = self._offset[used, label]
        inputs = self._inputs[used].double() * self._deviations(label, scale)
        fit = fit_laplace(inputs, targets, offset=offset, counts=counts)
        loss = counts * _losses(fit.left_out, targets)
        cost = 0.0
        if offset is not None:
            cost = float((loss - counts * _losses(offset, targets))[len(rows) :].sum())
        left_out = fit.left_out[: len(rows)]
        found = _Fit(answers.clone(), rows, fit.weights, left_out, float(loss.sum()), cost, unseen)
        self._fits[label, scale] = found
        return found

    def _suppose(
        self, label: int, rows: Tensor, answers: Tensor, unseen: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return images that count as answered, their targets, and how often each counts.

        Args:
            rows, answers: the answered images.
            unseen: number of images that count as the model says.
        """
        others = self._drawn[~torch.isin(self._drawn, rows)]
        yes, no = int((answers == 1).sum()), int((answers == 0).sum())
        if unseen:
            assert self._offset is not None
            others = others[:_PASSED_OVER]
            said = self._offset[others, label]
            right = said.abs().sigmoid()
            return others, (said > 0).double(), unseen * right / right.sum()
        is_one_sided = label >= self._num_known and yes > 0 and no < _FEWEST_NO
        others = others[: _ASSUMED_IMAGES if is_one_sided else 0]
        none = torch.zeros(len(others), dtype=torch.float64)
        return others, none, none + _ASSUMED * yes / max(len(others), 1)

    def _deviations(self, label: int, scale: float) -> Tensor:
        """Return the prior standard deviation of each input's weight (D',)."""
        axes, model = self._num_axes, len(self._shift) - self._num_axes - 1
        variances = (scale, _OF_MODEL, _OF_CONSTANT)
        if label < self._num_known:
            variances = (10 * scale, 0.0, scale)
        parts = (axes, model, 1)
        return torch.cat(
            [
                torch.full((n,), v, dtype=torch.float64)
                for n, v in zip(parts, variances, strict=True)
            ]
        ).sqrt()

    def _couple(
        self, log_odds: Tensor, answers: Tensor, base_rate: Tensor, error_rate: float
    ) -> tuple[Tensor, Tensor]:
        """Return new edges and their couplings."""
        known = answers != UNKNOWN
        images = (known.sum(1) >= 2).nonzero().squeeze(1)
        seen = known[images].double()
        together = (seen.T @ seen).triu(1) >= _FEWEST_TOGETHER
        together[: self._num_known, : self._num_known] = False
        edges = together.nonzero()
        if not len(edges):
            return edges, torch.zeros(0)
        pairwise = learn_couplings(
            log_odds[images], answers[images], base_rate, edges, error_rate=error_rate
        )
        used = pairwise != 0
        return edges[used], pairwise[used].float()

    @torch.no_grad()
    def _make_model(
        self,
        start: LabelCrf | None,
        steps: Tensor,
        edges: Tensor,
        pairwise: Tensor,
        base_rate: Tensor,
    ) -> LabelCrf:
        """Return a start model with steps of the unaries added, new labels and new couplings.

        A coupling acts on what is unusual, pairwise (y_i - base_rate_i) (y_j - base_rate_j), so
        that it hardly moves the marginals of images about which nothing is known.
        """
        weights, biases = (self._map @ steps).T, self._shift @ steps
        first, second = edges.T
        pairwise = pairwise.double()
        biases = biases.index_add(0, first, -pairwise * base_rate[second])
        biases = biases.index_add(0, second, -pairwise * base_rate[first])
        count = self._num_known
        if start is not None:
            weights[:count] += start.output.weight.double()
            biases[:count] += start.output.bias.double()
            edges = torch.cat([start.edges, edges])
            pairwise = torch.cat([start.pairwise.double(), pairwise])
        result = LabelCrf(
            weights.shape[1],
            len(weights),
            edges=edges,
            rules=Rules() if start is None else start.rules,
        )
        result.output.weight.copy_(weights)
        result.output.bias.copy_(biases)
        result.pairwise.copy_(pairwise)
        return result.eval()


def require_teachable(model: LabelCrf) -> None:
    """Raise an error unless labels can be added to a model.

    Raises:
        RunError: its unaries are not linear, or its couplings vary by image.
    """
    if model.hidden is not None or model.rank or model.num_scenes:
        raise RunError(
            "labels can be added to a model with linear unaries and constant couplings only: train "
            "without --hidden-units, --pairwise conditional and --structure latent"
        )


def _input_map(
    features: NDArray[np.float32], baseline: LabelCrf | None
) -> tuple[Tensor, Tensor, int]:
    """Return a linear map of features to inputs (D, D'), its shift (D',), and the number of axes.

    The inputs are the widest principal axes of the standardised features, then the baseline's
    log-odds, standardised, each group scaled to a mean square of 1 in sum; then a constant.
    """
    sample = features[_drawn(len(features), _MOST_MEASURED).sort().values.numpy()]
    seen = torch.from_numpy(sample).double()
    mean, spread = seen.mean(0), seen.std(0, correction=0)
    spread = torch.where(spread > _CONSTANT * mean.abs(), spread, torch.inf)
    standard = (seen - mean) / spread
    variance, axes = torch.linalg.eigh(standard.T @ standard / len(seen))
    num_axes = min(_MOST_AXES, len(seen), len(variance))
    widest = axes[:, -num_axes:] / variance[-num_axes:].sum().clamp(min=_LEAST).sqrt()
    of_axes = widest / spread[:, None]
    maps, shifts = [of_axes], [-mean @ of_axes]
    if baseline is not None:
        weight, bias = (one.detach().double() for one in baseline.output.parameters())
        log_odds = seen @ weight.T + bias
        scale = log_odds.std(0, correction=0).clamp(min=_LEAST) * len(bias) ** 0.5
        maps.append(weight.T / scale)
        shifts.append((bias - log_odds.mean(0)) / scale)
    maps.append(torch.zeros(len(mean), 1, dtype=torch.float64))
    shifts.append(torch.ones(1, dtype=torch.float64))
    return torch.cat(maps, 1), torch.cat(shifts), num_axes


def _losses(log_odds: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(log_odds, targets, reduction="none")


def _drawn(count: int, most: int) -> Tensor:
    """Return at most so many distinct images in random order, always the same."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:most]
