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
from mlcrf.inference.gibbs_sampling import Gibbs
from mlcrf.inference.junction_tree import JunctionTree

_MANY = 64  # labels; clamping each of more in turn takes longer than sampling
_SAMPLES = 1000
_NOISE = 3.0  # standard errors


@torch.no_grad()
def pair_marginals(
    method: InferenceMethod, potentials: Potentials, *, known: Tensor | None = None
) -> Tensor:
    """Return P(y_i = 1, y_j = 1 | known) of all pairs, with the marginals on the diagonal.

    Uses the method's own (`PreparedExact`) if available, for each image that `ExactOrGibbs` infers
    exactly too. With `Gibbs`, and with a `JunctionTree` of more than 64 labels, pairs are counted
    in samples (`count_pairs`). Else clamps every label in turn: P(y_i = 1) P(y_j = 1 | y_i = 1), as
    accurate as the method.

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
    if isinstance(method, Gibbs):
        draws = method.draw(potentials, known=given)
        return count_pairs(draws.marginals, draws.samples)
    p = method(potentials, known=given).marginals.double()
    if isinstance(method, JunctionTree) and potentials.num_labels > _MANY:
        generator = torch.Generator().manual_seed(0)
        return count_pairs(p, method.sample(potentials, _SAMPLES, generator, known=given))
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


def count_pairs(marginals: Tensor, samples: Tensor) -> Tensor:
    """Estimate P(y_i = 1, y_j = 1) of all pairs from label vectors, float64 (N, L, L).

    A covariance within three standard errors of none counts as none: L^2 pairs that are not coupled
    would else add up to much information.

    Args:
        marginals: P(y_i = 1) (N, L), more accurate than the samples' mean.
        samples: label vectors (S, N, L).
    """
    p = marginals.double()
    y = samples.permute(1, 0, 2).float()
    mean = y.mean(1).double()
    together = (y.mT @ y).double() / len(samples)
    covariance = together - mean.unsqueeze(-1) * mean.unsqueeze(-2)
    variance = mean * (1 - mean)
    error = (variance.unsqueeze(-1) * variance.unsqueeze(-2) / len(samples)).sqrt()
    pairs = p.unsqueeze(-1) * p.unsqueeze(-2)
    pairs += covariance.where(covariance.abs() > _NOISE * error, 0)
    most = torch.minimum(p.unsqueeze(-1), p.unsqueeze(-2))
    least = (p.unsqueeze(-1) + p.unsqueeze(-2) - 1).clamp(min=0)
    return pairs.clamp(least, most).diagonal_scatter(p, dim1=-2, dim2=-1)


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
