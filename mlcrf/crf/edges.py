"""Label pairs with an edge: chosen from training labels, or loaded from a file.

Pairs are chosen by mutual information: N times the mutual information is the gain in the
log-likelihood of the training labels from this edge, whether the labels attract or repel each
other. The log odds ratio would favour rare pairs, where a few images make it large.

Of the n images in which both labels are known, n_ab have the values a and b. With p Laplace's
estimate for a label, one more image is added to a pair, in which its labels are independent:

    p_1 = (n_1 + 1) / (n + 2),    q_ab = (n_ab + p_a p_b) / (n + 1)
    information = sum_ab q_ab log(q_ab / (q_a q_b))

which is 0 without data. One more image in each of the four cells, as is usual, makes rare labels
look related: among 100,000 images, two labels with 3 images each that never occur together would
get nearly as much as two that occur together once.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.choices import Structure
from mlcrf.crf.potentials import full_edges
from mlcrf.data.pairs import load_pairs
from mlcrf.errors import DataError, SettingsError
from mlcrf.labels import LabelSpace
from mlcrf.rules import Rules

HEADER = ("label_a", "label_b")
_BLOCK_PAIRS = 2**20  # largest number of label pairs per chunk
_BLOCK_TARGETS = 2**24  # largest number of targets per chunk
_DECIMALS = 12  # of information, so that ties do not depend on the processor's rounding


def edges_of_structure(
    structure: Structure,
    targets: Tensor | NDArray[np.int8],
    *,
    rules: Rules = Rules(),
    per_label: int = 8,
    false_share: float = 0.05,
) -> Tensor:
    """Return all pairs, none, the best tree or each label's strongest partners, int64 (E, 2).

    A label and a label that it implies get no edge. The child is never present without the parent,
    so only a penalty could separate the coupling from the child's unary; and the parent would
    always be among the child's strongest partners.

    Args:
        structure: INDEPENDENT, FULL, TREE or SPARSE.
        targets: 1, 0 or -1 (N, L); TREE and SPARSE choose from their labels.
        per_label, false_share: as in `strongest_edges`, for SPARSE.

    Raises:
        DataError, SettingsError: see `tree_edges` and `strongest_edges`.
    """
    num_labels = targets.shape[1]
    tied = torch.tensor(rules.closure, dtype=torch.int64).reshape(-1, 2)
    if structure is Structure.INDEPENDENT:
        return full_edges(num_labels)[:0]
    if structure is Structure.FULL:
        return _without(full_edges(num_labels), tied, num_labels)
    if structure is Structure.TREE:
        return _without(tree_edges(targets), tied, num_labels)
    if structure is not Structure.SPARSE:
        raise SettingsError(f"structure {structure.value}: has no edges of its own to choose")
    return strongest_edges(targets, per_label, without=tied, false_share=false_share)


def _without(edges: Tensor, pairs: Tensor, num_labels: int) -> Tensor:
    ends, row = pairs.sort(1).values, torch.tensor([num_labels, 1])
    return edges[~torch.isin((edges * row).sum(1), (ends * row).sum(1))]


def tree_edges(targets: Tensor | NDArray[np.int8]) -> Tensor:
    """Return the tree over all labels that fits the training labels best.

    A maximum spanning tree by mutual information is the tree of greatest likelihood. Among equal
    pairs the first in row order is taken.

    Args:
        targets: 1 present, 0 absent, -1 unknown, an integer type (N, L).

    Returns:
        Pairs i < j in row order, int64 (L - 1, 2).

    Raises:
        DataError: targets have another type or value.

    Cost: that of the counts, see `strongest_edges`, and O(L^2 log L). Memory: O(L) and a block.

    Source: Chow and Liu (1968).
    """
    states = _states(targets)
    num_labels = states.shape[1]
    tree = np.empty((2, 0), dtype=np.int64)
    gain = np.empty(0)
    # an edge in no best tree of some of the pairs is in none of all pairs
    for start, information, _ in _information(states):
        row, column = np.triu_indices(len(information), start + 1, num_labels)
        gain = np.concatenate([gain, information[row, column]])
        tree = np.concatenate([tree, [start + row, column]], axis=1)
        order = np.lexsort((tree[1], tree[0], -gain))
        tree, gain = tree[:, order], gain[order]
        weight = np.arange(1, len(gain) + 1)  # distinct and not 0, which would mean no edge
        graph = scipy.sparse.csr_array((weight, (tree[0], tree[1])), shape=(num_labels, num_labels))
        kept = np.sort(scipy.sparse.csgraph.minimum_spanning_tree(graph).data.astype(np.int64)) - 1
        tree, gain = tree[:, kept], gain[kept]
    return _in_row_order(tree[0], tree[1], num_labels)


def strongest_edges(
    targets: Tensor | NDArray[np.int8],
    per_label: int,
    *,
    without: Tensor | None = None,
    false_share: float = 1.0,
) -> Tensor:
    """Return each label's strongest partners by mutual information.

    A label can get more edges than `per_label`, from those that chose it, and gets fewer if
    other labels carry no information about it. Of equal partners the first is taken. With a
    `false_share` below 1 only pairs are kept whose relation the images give evidence of: twice the
    information of all images is tested as chi-squared of one degree of freedom (the likelihood
    ratio test), for all pairs of labels at once by the procedure of Benjamini and Hochberg (1995).

    Args:
        targets: 1 present, 0 absent, -1 unknown, an integer type (N, L).
        per_label: partners that each label chooses.
        without: excluded pairs, int64 (K, 2).
        false_share: expected share of the edges whose labels are independent, at most.

    Returns:
        Pairs i < j in row order, int64 (E, 2); E is at most L per_label.

    Raises:
        DataError: targets have another type or value.
        SettingsError: `per_label` is below 1.

    Cost: O(N k^2), where an image has k labels that are present, or that are known or unknown,
    whichever are fewer; and O(L^2 log L). Memory: O(N k) and a block of label pairs, never L^2.
    """
    if per_label < 1:
        raise SettingsError(f"edges per label: expected at least 1, got {per_label}")
    states = _states(targets)
    pairs, gains = [np.empty((2, 0), dtype=np.int64)], [np.empty(0)]
    label = np.arange(states.shape[1])
    none = [np.stack([label, label])]  # not a partner of itself
    if without is not None:
        none += [without.numpy().T, without.numpy().T[::-1]]
    row, column = np.concatenate(none, axis=1)
    for start, information, known in _information(states):
        here = (row >= start) & (row < start + len(information))
        information[row[here] - start, column[here]] = 0
        partner = np.argsort(-information, axis=1, kind="stable")[:, :per_label]
        strength = np.take_along_axis(information, partner, axis=1)
        of, place = np.nonzero(strength > 0)
        pairs.append(np.array([start + of, partner[of, place]]))
        gains.append(known[of, partner[of, place]] * strength[of, place])
    first, second = np.concatenate(pairs, axis=1)
    if false_share < 1:
        kept = _evident(first, second, np.concatenate(gains), states.shape[1], false_share)
        first, second = first[kept], second[kept]
    return _in_row_order(first, second, states.shape[1])


def _evident(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    gain: NDArray[np.float64],
    num_labels: int,
    false_share: float,
) -> NDArray[np.bool_]:
    """Return which pairs pass, of all pairs of labels; a pair may be given twice.

    Args:
        gain: log-likelihood that a pair gains, in nats.
    """
    _, index, which = np.unique(
        np.minimum(first, second) * num_labels + np.maximum(first, second),
        return_index=True,
        return_inverse=True,
    )
    chance = scipy.special.chdtrc(1, 2 * gain[index])
    order = np.argsort(chance, kind="stable")
    rank = np.arange(1, len(order) + 1)
    tests = num_labels * (num_labels - 1) / 2
    below = np.flatnonzero(chance[order] <= false_share * rank / tests)
    passed = np.zeros(len(order), dtype=np.bool_)
    passed[order[: below[-1] + 1 if len(below) else 0]] = True
    kept: NDArray[np.bool_] = passed[which]
    return kept


def load_edges(path: Path, labels: LabelSpace) -> Tensor:
    """Load edges from a CSV file with two label names per line, in any order.

    A first line `label_a,label_b` and blank lines are skipped.

    Returns:
        Pairs i < j in row order, int64 (E, 2).

    Raises:
        DataError, LabelsError: see `mlcrf.data.pairs.load_pairs`.
    """
    return torch.tensor(sorted(load_pairs(path, labels, HEADER)))


def _states(targets: Tensor | NDArray[np.int8]) -> NDArray[np.int8]:
    states = targets.detach().cpu().numpy() if isinstance(targets, Tensor) else targets
    if states.ndim != 2 or not states.shape[1] or states.dtype.kind not in "iub":
        raise DataError(f"targets: expected integers (N, L), got {states.dtype} {states.shape}")
    if states.size and not (states.min() >= -1 and states.max() <= 1):
        raise DataError("targets: expected 1 (present), 0 (absent) or -1 (unknown)")
    return states


def _information(
    states: NDArray[np.int8],
) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.int64]]]:
    """Yield mutual information in nats with every label, by blocks of labels.

    Each time the first label, the information, and in how many images both are known (B, L).
    """
    num_images, num_labels = states.shape
    present = _indicator(states, 1, equal=True)
    num_known = sum(int(np.count_nonzero(part != -1)) for part in _parts(states))
    sure = 2 * num_known > states.size
    # whichever is sparser; (unknown in either) = (unknown in one) + (in the other) - (in both)
    marked = _indicator(states, -1, equal=sure)
    often, marks = (matrix.sum(axis=0) for matrix in (present, marked))
    size = max(1, _BLOCK_PAIRS // num_labels)
    for start in range(0, num_labels, size):
        rows = slice(start, start + size)
        both = (present[:, rows].T @ present).toarray()
        first = (present[:, rows].T @ marked).toarray()
        second = (marked[:, rows].T @ present).toarray()
        known = (marked[:, rows].T @ marked).toarray()
        if sure:
            first, second = often[rows, None] - first, often - second
            known = num_images - marks[rows, None] - marks + known
        yield start, _of_counts(both, first, second, known), known


def _of_counts(
    both: NDArray[np.int64],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    known: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return the mutual information from counts of the images where both labels are known."""
    p, r = (first + 1) / (known + 2), (second + 1) / (known + 2)
    q11 = (both + p * r) / (known + 1)
    q10 = (first - both + p * (1 - r)) / (known + 1)
    q01 = (second - both + (1 - p) * r) / (known + 1)
    q00 = (known - first - second + both + (1 - p) * (1 - r)) / (known + 1)
    information = scipy.special.rel_entr(q11, (q11 + q10) * (q11 + q01))
    information += scipy.special.rel_entr(q10, (q10 + q11) * (q10 + q00))
    information += scipy.special.rel_entr(q01, (q01 + q00) * (q01 + q11))
    information += scipy.special.rel_entr(q00, (q00 + q01) * (q00 + q10))
    positive: NDArray[np.float64] = np.maximum(information, 0)
    return positive.round(_DECIMALS)


def _parts(states: NDArray[np.int8]) -> Iterator[NDArray[np.int8]]:
    """Yield a few images at a time; one empty part if there are none."""
    size = max(1, _BLOCK_TARGETS // states.shape[1])
    for start in range(0, max(1, len(states)), size):
        yield states[start : start + size]


def _indicator(states: NDArray[np.int8], value: int, *, equal: bool) -> "scipy.sparse.csr_array":
    """Return 1 where states are equal to a value, or where they are not, else 0 (N, L)."""
    parts = [
        scipy.sparse.csr_array((part == value) == equal, dtype=np.int64) for part in _parts(states)
    ]
    return scipy.sparse.vstack(parts, format="csc")


def _in_row_order(first: NDArray[np.int64], second: NDArray[np.int64], num_labels: int) -> Tensor:
    """Return the pairs as i < j, each once, in row order."""
    codes = np.unique(np.minimum(first, second) * num_labels + np.maximum(first, second))
    pairs = np.stack(np.divmod(codes, num_labels), axis=1)
    return torch.from_numpy(pairs)
