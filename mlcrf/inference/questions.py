"""Choose the questions whose answers are most informative.

The information of an answer about label i, in nats, is summed over the photo's labels j,

    information_i = sum_j I(y_i; y_j | x, known),      I(y_i; y_i) = H(y_i)

the expected decrease of the sum of all labels' own entropies. Without couplings it is H(y_i). (The
expected decrease of the entropy of the whole label set is H(y_i) for every joint distribution, and
would not prefer a label that determines five others to an independent label.) Photos are ranked by
their best question.

Source: mutual information as in Cover and Thomas, Elements of Information Theory (2006), chapter 2.
"""

import torch
from torch import Tensor

from mlcrf.crf import UNKNOWN, Potentials, check_known
from mlcrf.inference import InferenceMethod, PreparedExact, prepare
from mlcrf.inference.automatic import ExactOrGibbs


@torch.no_grad()
def pair_marginals(
    method: InferenceMethod, potentials: Potentials, *, known: Tensor | None = None
) -> Tensor:
    """Return P(y_i = 1, y_j = 1 | known) of all pairs, with the marginals on the diagonal.

    Uses the method's own (`PreparedExact`) if available, for each image that `ExactOrGibbs` infers
    exactly too; else clamps every label in turn: P(y_i = 1) P(y_j = 1 | y_i = 1), as accurate as
    the method.

    Returns:
        Symmetric, float64 (N, L, L).

    Cost: with clamping, inference on N (L + 1) images.
    """
    if isinstance(method, PreparedExact):
        return method.pair_marginals(potentials, known=known).double()
    given = check_known(potentials, known)
    if isinstance(method, ExactOrGibbs):
        shape = *given.shape, potentials.num_labels
        pairs = torch.empty(shape, dtype=torch.float64, device=given.device)
        for chosen, images in method.split(potentials, given):
            some = potentials.rows(images)
            pairs[images] = pair_marginals(prepare(chosen, some), some, known=given[images])
        return pairs
    p = method(potentials, known=given).marginals.double()
    result = torch.diag_embed(p)
    for label in range(potentials.num_labels):
        asked = (given[:, label] == UNKNOWN).nonzero().squeeze(1)
        together = p[:, label, None] * p  # for known labels
        if len(asked):
            clamped = given[asked].clone()
            clamped[:, label] = 1
            beside = method(potentials.rows(asked), known=clamped).marginals.double()
            together[asked] = p[asked, label, None] * beside
        together[:, label] = p[:, label]
        result[:, label] = together
    return (result + result.mT) / 2


def label_entropy(marginals: Tensor) -> Tensor:
    """Return H(y_i) in nats from P(y_i = 1), any shape: no answer has less information."""
    p = marginals.double().clamp(0, 1)
    return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p))


def mutual_information(pairs: Tensor) -> Tensor:
    """Return I(y_i; y_j) in nats of all label pairs, with H(y_i) on the diagonal.

        I = sum_{a, b in {0, 1}} P(a, b) log (P(a, b) / (P(a) P(b)))

    Args:
        pairs: P(y_i = 1, y_j = 1), with the marginals on the diagonal, (N, L, L).

    Returns:
        float64 (N, L, L), none below 0.
    """
    both = pairs.double().clamp(0, 1)
    p = both.diagonal(dim1=-2, dim2=-1)
    first, second = p.unsqueeze(-1), p.unsqueeze(-2)
    cells = (
        (both, first * second),
        ((first - both).clamp(min=0), first * (1 - second)),
        ((second - both).clamp(min=0), (1 - first) * second),
        ((1 - first - second + both).clamp(min=0), (1 - first) * (1 - second)),
    )
    tiny = torch.finfo(both.dtype).tiny
    information = sum(
        (torch.xlogy(joint, joint / apart.clamp(min=tiny)) for joint, apart in cells),
        torch.zeros_like(both),
    )
    entropy = label_entropy(p)
    limit = torch.minimum(
        entropy.unsqueeze(-1), entropy.unsqueeze(-2)
    )  # also after rounding of pairs
    information = torch.minimum(information.clamp(min=0), limit)
    return information.diagonal_scatter(entropy, dim1=-2, dim2=-1)


def answer_information(pairs: Tensor) -> Tensor:
    """Return the information of an answer about each label in nats, float64 (N, L).

    Args:
        pairs: as `pair_marginals` gives them, (N, L, L).
    """
    return mutual_information(pairs).sum(-1)


def next_questions(information: Tensor, askable: Tensor) -> Tensor:
    """Return the label to ask about next, int64 (N,); -1 if there is none.

    Args:
        information: of an answer about each label (N, L).
        askable: labels that may be asked, boolean (N, L).
    """
    best = information.masked_fill(~askable, -torch.inf).argmax(1)
    return best.masked_fill(~askable.any(1), -1)
