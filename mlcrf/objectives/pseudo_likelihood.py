"""The pseudo-likelihood: each label given all other labels."""

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mlcrf.crf import UNKNOWN, Potentials, check_known, full_edges
from mlcrf.inference import MeanField

_MAX_TERMS = 2**14  # per image: up to 2^(unknown labels) x labels, unknown labels are enumerated
_TERMS_AT_ONCE = 2**22
_FOLDS = 4
_MEAN_FIELD = MeanField(max_sweeps=10, parallel=True)


def pseudo_likelihood_loss(potentials: Potentials, targets: Tensor, *, seed: int = 0) -> Tensor:
    """Return the negative log-probability of each known label given the other known labels.

        loss = -sum_(i known) log P(y_i | known labels without i)

    If all labels are known, this is the pseudo-likelihood of Besag (1975), convex in the
    potentials. Unknown labels are not scored. They are summed out exactly in images where
    2^unknown x labels is at most 2^14: up to 9 unknown labels out of 24, 7 out of 100. If all
    images are such, and labels are unknown completely at random, the minimiser is consistent.

    In images with more unknown labels, the known labels are cut into four random folds, and

        loss = -sum_folds sum_(i in fold) log q_i,      q = mean field given the other three folds

    where q comes from ten damped parallel sweeps. No label sees itself, directly or through an
    unknown neighbour. The remaining bias is mean field's, and does not vanish with more images:
    with 8 labels, couplings come out 3, 6 and 10 % too small at 10, 30 and 60 % unknown
    (`experiments/slopes`).

    Args:
        potentials: unary (N, L), pairwise (E,).
        targets: 1 present, 0 absent, -1 unknown (N, L).
        seed: random seed of the folds, which are the same in every call.

    Returns:
        A scalar: summed over labels, averaged over images.

    Raises:
        PotentialsError: the known labels of a partly known image contradict an implication.

    Cost: O(N L^2) if all labels are known; by enumeration matrix products of at most 2^14 terms
    per partly known image, by mean field 40 times O(N L^2). With 24 labels and 1,280 features, the
    gradient takes 7 times as long with 30 % unknown as with none. Differentiable in both
    potentials.
    """
    return pseudo_likelihood_by_image(potentials, targets, seed=seed).sum() / len(targets)


def pseudo_likelihood_by_image(potentials: Potentials, targets: Tensor, *, seed: int = 0) -> Tensor:
    """Return the same of each image, summed over its labels (N,)."""
    observed = targets != UNKNOWN
    present = torch.where(observed, targets, 0).to(potentials.unary.dtype)
    logits = potentials.conditional_logits(present)
    if not bool(observed.all()):
        check_known(potentials, targets)
        logits = _sum_out_unknown(potentials, targets, logits, seed)
    each = F.binary_cross_entropy_with_logits(logits, present, reduction="none")
    return (each * observed).sum(1)


def _sum_out_unknown(potentials: Potentials, targets: Tensor, logits: Tensor, seed: int) -> Tensor:
    """Return the log-odds of known labels, unknown labels summed out (N, L).

    Args:
        logits: log-odds of each label given the others, unknown labels counted as absent (N, L).
    """
    num_labels = potentials.num_labels
    coupled = potentials.as_couplings()
    shared = None if coupled.varies_by_image else coupled.pairwise_matrix()
    num_unknown = (targets == UNKNOWN).sum(1)
    many = torch.zeros_like(num_unknown, dtype=torch.bool)
    for count in sorted(set(num_unknown.tolist())):
        terms = 2**count * num_labels
        if terms > _MAX_TERMS:
            many |= num_unknown == count
        elif count:
            rows = (num_unknown == count).nonzero()[:, 0]
            for part in rows.split(max(1, _TERMS_AT_ONCE // terms)):
                matrix = coupled.rows(part).pairwise_matrix() if shared is None else shared
                # 2^count x labels numbers per image are computed again instead of kept
                summed = checkpoint(
                    _enumerate_unknown, logits[part], matrix, targets[part],
                    use_reentrant=False, preserve_rng_state=False,
                )  # fmt: skip
                logits = logits.index_copy(0, part, summed)
    if bool(many.any()):
        rows = many.nonzero()[:, 0]
        fold = _draw_folds(targets, seed)[rows]
        logits = logits.index_copy(
            0, rows, _from_other_folds(potentials.rows(rows), targets[rows], fold)
        )
    return logits


def _enumerate_unknown(logits: Tensor, matrix: Tensor, targets: Tensor) -> Tensor:
    """Return the log-odds of each known label given the other known labels (N, L).

    With H the unknown labels, and f_i the log-odds of label i if these are absent:

        f_i + sign log E[exp(sign sum_(j in H) pairwise_ij y_j) | all known labels]

    where the sign is -1 if label i is present, which takes its influence on H back, and 1 if it is
    absent, which adds it. The influence is a product over two halves of H, so that the expectations
    of all labels are matrix products; where one is too small for them, it is a sum in log space.

    Args:
        logits: log-odds given the known labels, unknown labels counted as absent (N, L).
        matrix: couplings, (L, L) or (N, L, L).
        targets: as many unknown labels in every image (N, L).
    """
    unknown = targets == UNKNOWN
    labels = unknown.nonzero()[:, 1].view(len(targets), -1)
    images = torch.arange(len(targets), device=labels.device)[:, None]
    couplings = matrix[images, labels] if matrix.ndim == 3 else matrix[labels]
    count = labels.shape[1]
    first, second = full_edges(count).to(labels.device).T
    states = _states(count, logits)
    among = couplings[images, first, labels[:, second]]
    together = states[:, first] * states[:, second]
    scores = logits.gather(1, labels) @ states.T + among @ together.T
    sign = torch.where(targets == 1, -1.0, 1.0).to(logits)
    couplings = sign[:, None] * couplings

    low = couplings[:, : count // 2]
    high = couplings[:, count // 2 :]
    of_low, low_top = _influence(low)
    of_high, high_top = _influence(high)
    p = scores.softmax(1).view(len(targets), of_high.shape[1], of_low.shape[1])
    expected = (of_high * (p @ of_low)).sum(1)
    least = torch.finfo(expected.dtype).tiny ** 0.5  # what underflows is nothing beside it
    lost = (expected < least).any(1).nonzero()[:, 0]
    logs = expected.clamp(min=least).log() + low_top + high_top
    if len(lost):
        in_log_space = scores[lost].log_softmax(1)[:, :, None] + states @ couplings[lost]
        logs = logs.index_copy(0, lost, in_log_space.logsumexp(1))
    return logits + sign * logs


def _influence(couplings: Tensor) -> tuple[Tensor, Tensor]:
    """Return exp of the summed couplings of each state (N, 2^h, L) over the largest, and its log.

    Args:
        couplings: of some unknown labels with every label (N, h, L).
    """
    summed = _states(couplings.shape[1], couplings) @ couplings
    top = summed.detach().amax(1, keepdim=True)
    return (summed - top).exp(), top.squeeze(1)


def _states(num_labels: int, like: Tensor) -> Tensor:
    """Return all states of some labels (2^l, l); the first label changes fastest."""
    bits = torch.arange(num_labels, device=like.device)
    return (torch.arange(2**num_labels, device=like.device)[:, None] >> bits & 1).to(like)


def _from_other_folds(potentials: Potentials, targets: Tensor, fold: Tensor) -> Tensor:
    """Return mean field's log-odds of each label given the known labels of other folds (N, L)."""
    logits = torch.zeros_like(potentials.unary)
    for number in range(_FOLDS):
        known = check_known(potentials, targets.where(fold != number, UNKNOWN))
        logits = torch.where(fold == number, _MEAN_FIELD.unroll(potentials, known), logits)
    return logits


def _draw_folds(targets: Tensor, seed: int) -> Tensor:
    """Draw the fold of each label of each image, int64 (N, L)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(_FOLDS, targets.shape, generator=generator).to(targets.device)
