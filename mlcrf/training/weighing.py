"""Shares of the structure that held-out images support: between the baseline and the CRF.

    unary_i = baseline_i + w_i (crf_i - baseline_i) + b_i,     pairwise_ij = sqrt(w_i w_j) crf_ij

With w = 0 a label is the independent baseline's, with w = 1 the CRF's as it was fitted. Between
them, and after pseudo-likelihood, mean marginals are not the frequencies of the labels, as those of
the most likely CRF would be. So the biases b of labels with couplings bring the mean marginals of
held-out images to their frequency, as far as counts are enough to tell it, else to the baseline's:

    m_i = r e_i (n_i + c) / (r e_i + c),     r = sum_i n_i / sum_i e_i

where the baseline expects label i in e_i of these images and n_i have it. n_i / e_i has a gamma
distribution of mean r and variance r^2 / c, which the spread of n_i tells by moments, of the labels
that are expected in one image or more.

The loss to choose by is that of single labels, through the inference in use, and a share of that
of whole sets:

    (1 - s) mean_x sum_i -log P(y_i | x)  +  s mean_x -log P(y | x)

Beyond exact inference pseudo-likelihood stands for the likelihood of sets. A weight above 0 must
make neither the first term worse than at 0, nor the number of labels that a threshold of 0.5 gets
wrong, nor 1 - F1 of the label set that it gives, by more than half a percent and the standard error
of the difference: couplings can improve the one and spoil the other. With
`cross_validation` twice the standard error is allowed: one would refuse couplings by chance. With
fewer than 400 validation images single labels or whole sets have to gain two standard errors, else
the baseline is used as it is.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.backbones.feature_matrix import Matrix, read_rows, read_spread, spread_rows
from mlcrf.crf import UNKNOWN
from mlcrf.hints import counted
from mlcrf.inference import Bethe, Exact, Gibbs, InferenceMethod
from mlcrf.inference.automatic import ExactOrGibbs
from mlcrf.inference.exact.shared_split import SharedSplit
from mlcrf.inference.posterior import log_mass
from mlcrf.model import LabelCrf
from mlcrf.objectives import (
    Objective,
    from_image,
    pseudo_likelihood_by_image,
    pseudo_likelihood_loss,
)
from mlcrf.objectives.objective import with_silence
from mlcrf.processes import Processes
from mlcrf.training.finite import require_finite

_AT_ONCE = 1024  # images
_MOST_IMAGES = 2000  # to choose weights on
_MOST_SAMPLED = 64  # labels; sampling more of them for every weight would take minutes
_INSTEAD_OF_GIBBS = Bethe(max_sweeps=30, tolerance=1e-3, damping=0.3, second_start=False)
_LEFT_OUT = 1e-4  # share of Z, far below differences that count
_LEAST = 1e-6  # probability; samples may give 0
_BIAS_ROUNDS = 6  # for the chosen weights
_BIAS_STEP = 0.8  # of Newton's step: attracting labels raise each other
_LARGEST_BIAS_STEP = 1.0  # nats
_BIAS_TOLERANCE = 0.02  # nats
_TRIFLE = 0.005  # share of a loss
_SURE_ERRORS = 2.0
_MOST_GROUPS = 3
_GROUP_POSITIVES = 50  # held-out positives that a group of labels needs


@dataclass(frozen=True)
class Losses:
    """Losses on held-out images, in nats per image: of single labels, and of whole sets.

    Attributes:
        by_image: of each image the loss of its labels, how many a threshold of 0.5 gets wrong, and
            1 - F1 of the label set that it gives; and the loss of its label set by the inference or
            by pseudo-likelihood, by another objective that of its labels again, float64 (4, N).
        sums: of each label, over images of which something is known: their number, how many have
            the label, the sum of its marginals p, and that of p (1 - p), float64 (4, L).
    """

    single: float
    joint: float
    by_image: Tensor
    sums: Tensor

    def wanted(self) -> Tensor:
        """Return the sums of marginals (L,) that annotations support, if these are a baseline's."""
        _, present, expected, variance = self.sums
        common = (present.sum() + 1) / (expected.sum() + 1)
        expected, variance = common * expected, common * variance.clamp(min=_LEAST)
        tells = expected >= 1  # of rarer labels one image more or less would be all that counts
        excess = ((present - expected) ** 2 / variance - 1)[tells].sum()
        most = (expected**2 / variance)[tells].sum().clamp(min=_LEAST)
        spread = excess.clamp(min=0) / most  # 1 / c
        wanted: Tensor = expected * (spread * present + 1) / (spread * expected + 1)
        return wanted

    def bias_towards(self, wanted: Tensor) -> Tensor:
        """Return a step of the biases (L,) that brings the sums of marginals towards these.

        It is Newton's on the log-odds of the mean, as if labels did not raise each other, and
        shortened.
        """
        known, _, expected, variance = self.sums
        mean, wanted = ((one / known).clamp(_LEAST, 1 - _LEAST) for one in (expected, wanted))
        slope = variance / (known * mean * (1 - mean))
        step: Tensor = _BIAS_STEP * (wanted.logit() - mean.logit()) / slope
        step = step.masked_fill(known == 0, 0)
        step = step.clamp(-_LARGEST_BIAS_STEP, _LARGEST_BIAS_STEP)
        return step.float()

    def blend(self, share: float) -> float:
        """Return (1 - share) single + share joint."""
        return (1 - share) * self.single + share * self.joint

    def spoils(self, other: "Losses", *, measures: int = 3, errors: float = 1.0) -> bool:
        """Return whether single labels are worse, by more than the error and a trifle.

        Args:
            measures: rows of `by_image` that count.
            errors: number of standard errors.
        """
        more = (self.by_image - other.by_image)[:measures]
        least = torch.maximum(
            errors * _standard_error(more), _TRIFLE * other.by_image[:measures].mean(1)
        )
        return bool((more.mean(1) > least).any())

    def gains(self, other: "Losses") -> bool:
        """Return whether single labels or whole sets are better, by more than two errors."""
        less = (other.by_image - self.by_image)[[0, 3]]
        return bool((less.mean(1) > _SURE_ERRORS * _standard_error(less)).any())


def _standard_error(values: Tensor) -> Tensor:
    spread: Tensor = values.std(1, correction=0)
    return spread / math.sqrt(values.shape[1])


@dataclass(frozen=True)
class HeldOut:
    """Images, with a baseline and a CRF that have not seen them.

    Attributes:
        features, targets: (N, D), and 1, 0, -1 unknown (N, L).
        shared: kernel of exact inference, for the same weights with other biases.
    """

    features: Matrix
    targets: NDArray[np.int8]
    baseline: LabelCrf
    crf: LabelCrf
    shared: SharedSplit | None = None

    def sharing(self) -> "HeldOut":
        """Return the same images for several inferences, most with the same couplings."""
        return replace(self, shared=SharedSplit())

    def some(self, most: int) -> "HeldOut":
        """Return at most so many of the images."""
        if len(self.targets) <= most:
            return self
        rows = spread_rows(len(self.targets), most)
        return replace(self, features=read_spread(self.features, rows), targets=self.targets[rows])

    def with_weights(self, weights: Tensor | None, bias: Tensor) -> LabelCrf:
        """Return the model with these weights; None for the baseline as it is."""
        if weights is None:
            return self.baseline
        return weighed(self.baseline, self.crf, weights, bias)


@dataclass(frozen=True)
class Weighing:
    """The chosen weights.

    Attributes:
        weights, bias: w and b of each label (L,).
        before: losses of the baseline, which knows no rules.
        after: losses with these weights.
        loss: the blend that they minimise.
    """

    weights: Tensor
    bias: Tensor
    before: Losses
    after: Losses
    loss: float

    def __str__(self) -> str:
        used, count = int((self.weights > 0).sum()), len(self.weights)
        values = ", ".join(f"{value:g}" for value in sorted(set(self.weights.tolist()))[::-1])
        return (
            f"structure: in use for {used} of "
            f"{counted(count, 'label')} (weights {values}); on held-out "
            f"images the loss of single labels goes from {self.before.single:.4f} to "
            f"{self.after.single:.4f} nats, that of whole sets from {self.before.joint:.4f} to "
            f"{self.after.joint:.4f}"
        )


@torch.no_grad()
def weighed(
    baseline: LabelCrf, crf: LabelCrf, weights: Tensor, bias: Tensor | float = 0.0
) -> LabelCrf:
    """Return the model between two models of the same features, without edges of weight 0.

    Args:
        weights: 0 to 1 (L,). With 1 everywhere the result equals `crf`, but for its biases.
        bias: b, which is added to the biases (L,).
    """
    if bool((weights == 1).all()):
        result = crf.clone()
        result.output.bias.add_(bias)
        return result
    first, second = crf.edges.T
    shares = (weights[first] * weights[second]).sqrt()
    used = shares > 0
    state = crf.state_dict()
    for name, its in baseline.state_dict().items():
        if name.startswith("output."):
            share = weights.view(-1, *[1] * (its.ndim - 1))
            state[name] = its + share * (state[name] - its)
    state["pairwise"] = (shares * crf.pairwise)[used]
    state["edges"] = crf.edges[used]
    if crf.factors is not None:
        state["factors"] = (shares * crf.factors)[:, used]
    result = LabelCrf(
        crf.output.in_features,
        crf.num_labels,
        edges=crf.edges[used],
        rules=crf.rules,
        rank=crf.rank,
    )
    result.load_state_dict(state)
    result.output.bias.add_(bias)
    return result


class Weigher:
    """Choice of weights on held-out images.

    Held-out images may be in parts that were held out from different models.

    Args:
        positives: training images with each label (L,), for groups of labels of like frequency.
        make_inference: the inference of a run with this model. With more than 64 labels Bethe
            stands for Gibbs.
        joint: loss of whole sets; None for the likelihood, which exact inference gives beside the
            marginals.
        candidates: weights to choose from.
        joint_share: its share in the choice.
        errors: standard errors by which single labels must not be worse than the baseline's.
        is_few: whether images are so few that a gain can be chance; then the baseline is used
            unless single labels or whole sets gain two standard errors.
        silence: evidence of sources that list only a part of what is present; what they do not
            mention has the probability of that.

    Cost: of each choice, inference on at most 2,000 images of a part 5 to 15 times.
    """

    def __init__(
        self,
        *,
        positives: Tensor,
        make_inference: Callable[[LabelCrf], InferenceMethod],
        joint: Objective | None,
        candidates: Sequence[float],
        joint_share: float,
        processes: Processes,
        errors: float = 1.0,
        is_few: bool = False,
        silence: Tensor | None = None,
    ) -> None:
        self._errors, self._is_few = errors, is_few
        self._positives = positives
        self._make_inference, self._joint = make_inference, joint
        self._candidates, self._share = sorted(candidates), joint_share
        self._processes, self._silence = processes, silence

    def score(self, parts: Sequence[HeldOut]) -> float:
        """Return the least loss with the least or a larger weight, the same for all labels."""
        least, *others = self._candidates
        return self._choose_common(_some(parts), [least, *others[len(others) // 2 :]]).loss

    def choose_common(self, parts: Sequence[HeldOut]) -> Weighing:
        """Return one weight for all labels.

        What spoils single labels is not chosen, unless nothing else is among the candidates.
        """
        return self._choose_common(_some(parts), self._candidates)

    def choose_by_group(self, parts: Sequence[HeldOut], common: Weighing) -> Weighing:
        """Return a weight for each group of labels where that is better than a common one."""
        if len(self._candidates) == 1:
            return common
        parts, best = _some(parts), common
        held_out = sum((part.targets == 1).sum(0) for part in parts)
        groups = _groups(self._positives, torch.as_tensor(held_out))
        for group in groups if len(groups) > 1 else []:
            for share in self._candidates:
                weights = best.weights.clone()
                weights[group] = share
                if not torch.equal(weights, best.weights):
                    one = self._match(parts, self._try(parts, weights, best.bias, best.before), 1)
                    spoils = one.after.spoils(best.before, errors=self._errors)
                    if one.loss < best.loss and not spoils:
                        best = one
        best = self._match(parts, best, _BIAS_ROUNDS)
        none = torch.zeros(len(best.weights))
        if self._is_few and self._candidates[0] == 0 and not best.after.gains(best.before):
            return self._try(parts, none, none, best.before)
        return best

    def _choose_common(self, parts: Sequence[HeldOut], shares: Sequence[float]) -> Weighing:
        ones, none = torch.ones(len(self._positives)), torch.zeros(len(self._positives))
        before = self._losses(parts, None, none)
        rounds = 1 if len(shares) > 1 else 0
        tries = [
            self._match(parts, self._try(parts, share * ones, none, before), rounds)
            for share in shares
        ]
        allowed = [one for one in tries if not one.after.spoils(before, errors=self._errors)]
        return min(allowed or tries, key=lambda one: one.loss)

    def _match(self, parts: Sequence[HeldOut], one: Weighing, rounds: int) -> Weighing:
        """Return the same weights with biases nearer to the wanted means, unless it is worse."""
        best = one
        first, second = parts[0].crf.edges[(one.weights[parts[0].crf.edges] > 0).all(1)].T
        coupled = torch.zeros(len(one.weights))
        coupled[first] = coupled[second] = 1
        for _ in range(rounds):
            step = coupled * best.after.bias_towards(best.before.wanted())
            if bool((step.abs() <= _BIAS_TOLERANCE).all()):
                break
            best = self._try(parts, best.weights, best.bias + step, best.before)
        return one if best.after.spoils(one.after, measures=1) else best

    def _try(
        self, parts: Sequence[HeldOut], weights: Tensor, bias: Tensor, before: Losses
    ) -> Weighing:
        after = self._losses(parts, weights, bias)
        return Weighing(weights, bias, before, after, after.blend(self._share))

    def _losses(self, parts: Sequence[HeldOut], weights: Tensor | None, bias: Tensor) -> Losses:
        """Return the losses of all parts with these weights; None for the baselines as they are."""
        found = [self._losses_of(part.with_weights(weights, bias), part) for part in parts]
        by_image = torch.cat([one.by_image for one in found], 1)
        joint = sum(one.joint * one.by_image.shape[1] for one in found) / by_image.shape[1]
        sums = torch.stack([one.sums for one in found]).sum(0)
        return Losses(float(by_image[0].mean()), joint, by_image, sums)

    @torch.no_grad()
    def _losses_of(self, model: LabelCrf, part: HeldOut) -> Losses:
        features, targets = part.features, part.targets
        method, count = self._make_inference(model), len(targets)
        if isinstance(method, Exact):
            method = replace(method, shared=part.shared, leave_out=_LEFT_OUT)
        if isinstance(method, Gibbs | ExactOrGibbs) and model.num_labels > _MOST_SAMPLED:
            method = _INSTEAD_OF_GIBBS
        joint = torch.zeros(1, dtype=torch.float64)
        by_image = torch.zeros(4, count, dtype=torch.float64)
        sums = torch.zeros(4, model.num_labels, dtype=torch.float64)
        for rows in self._processes.blocks(count, _AT_ONCE):
            said = torch.from_numpy(targets[rows].astype(np.int64))
            potentials = model(torch.from_numpy(read_rows(features, rows)))
            told, known = with_silence(potentials, said, self._silence)
            posterior = method(potentials)
            marginals = posterior.marginals
            require_finite("structure weights", {"marginals": marginals})
            p = marginals.double().clamp(_LEAST, 1 - _LEAST)
            left = (told.unary - potentials.unary).double().exp()  # P(not mentioned | present)
            heard = 1 - p * (1 - left)  # P(not mentioned)
            present = torch.where(known == UNKNOWN, p * left / heard, known)
            sums += ((said != UNKNOWN) * torch.stack([p**0, present, p, p * (1 - p)])).sum(1)
            of_truth = torch.where(known == 1, p, 1 - p)
            of_truth = torch.where(known == UNKNOWN, heard, of_truth)
            by_image[0, rows] = -of_truth.log().sum(1)
            wrong = (of_truth < 1 / 2).sum(1).double()
            hits = ((known == 1) & (p >= 1 / 2)).sum(1)
            by_image[1, rows] = wrong
            by_image[2, rows] = torch.where(wrong > 0, wrong / (2 * hits + wrong), 0.0)
            by_image[3, rows] = by_image[0, rows]
            if self._joint is None or self._joint is pseudo_likelihood_loss:
                if self._joint is None:
                    of_sets = posterior.log_partition - log_mass(method, told, known)
                else:
                    of_sets = pseudo_likelihood_by_image(potentials, said)
                by_image[3, rows] = of_sets.double()
                mean = of_sets.mean()
            else:
                mean = from_image(self._joint, rows.start)(potentials, said)
            joint += len(known) / count * float(mean)
        self._processes.all_reduce(joint, by_image, sums)
        return Losses(float(by_image[0].mean()), float(joint), by_image, sums)


def _some(parts: Sequence[HeldOut]) -> list[HeldOut]:
    return [part.some(_MOST_IMAGES).sharing() for part in parts]


def _groups(positives: Tensor, held_out: Tensor) -> list[Tensor]:
    """Return labels in groups of like frequency, each with enough held-out positives."""
    order = positives.argsort(stable=True)
    for count in range(min(_MOST_GROUPS, len(order)), 1, -1):
        groups = list(order.tensor_split(count))
        if all(int(held_out[group].sum()) >= _GROUP_POSITIVES for group in groups):
            return groups
    return [order]
