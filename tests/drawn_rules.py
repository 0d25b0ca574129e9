"""Random rules, and the label sets that keep to them, by plain enumeration."""

import itertools
import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mlcrf.crf import Potentials
from mlcrf.rules import Limit, Rules
from tests.making import make_potentials


def random_rules(rng: np.random.Generator, num_labels: int) -> Rules:
    """Draw a few implications and limits, hard and soft, that the empty set need not obey."""
    order = rng.permutation(num_labels).tolist()
    pairs = [(order[i], order[j]) for i in range(num_labels) for j in range(i)]
    chosen = [pairs[at] for at in rng.permutation(len(pairs))[: rng.integers(0, 4)]]
    limits = []
    for _ in range(rng.integers(1, 5)):
        size = int(rng.integers(2, num_labels + 1))
        group = tuple(rng.permutation(num_labels)[:size].tolist())
        least = int(rng.integers(0, size))
        most = int(rng.integers(max(least, 1), size + 1))
        if (least, most) == (0, size):
            most -= 1
        weight = None if rng.random() < 0.6 else float(rng.uniform(0.5, 3))
        limits.append(Limit(group, least, most, weight))
    return Rules(tuple(chosen), tuple(limits))


def allowed_scores(potentials: Potentials, known: Tensor) -> tuple[Tensor, Tensor]:
    """Return all label sets (S, L) and their log-scores (N, S), in plain sums."""
    num_images, num_labels = potentials.unary.shape
    sets = list(itertools.product((0, 1), repeat=num_labels))
    matrix = potentials.pairwise_matrix().tolist()
    unary, rules = potentials.unary.tolist(), potentials.rules
    scores = torch.full((num_images, len(sets)), -math.inf, dtype=torch.float64)
    for at, y in enumerate(sets):
        if any(y[child] > y[parent] for child, parent in rules.pairs):
            continue
        cost = 0.0
        for limit in rules.limits:
            present = sum(y[label] for label in limit.labels)
            if not limit.least <= present <= limit.most:
                cost += math.inf if limit.weight is None else limit.weight
        if cost == math.inf:
            continue
        for image in range(num_images):
            if any(
                told >= 0 and told != value
                for told, value in zip(known[image].tolist(), y, strict=True)
            ):
                continue
            own = matrix[image] if potentials.varies_by_image else matrix
            scores[image, at] = (
                math.fsum(u for u, value in zip(unary[image], y, strict=True) if value)
                + math.fsum(
                    own[i][j]
                    for i, j in itertools.combinations(range(num_labels), 2)
                    if y[i] and y[j]
                )
                - cost
            )
    return torch.tensor(sets, dtype=torch.float64), scores


def make(seed: int, num_labels: int, *, varies: bool = False) -> tuple[Potentials, Tensor]:
    """Make three images under random rules that something satisfies, and what is known of them."""
    rng = np.random.default_rng(seed)
    potentials = make_potentials(3, num_labels, unary=1.5, pairwise=1.0, varies=varies, seed=seed)
    while True:
        rules = random_rules(rng, num_labels)
        found = [
            y for y in itertools.product((0, 1), repeat=num_labels) if rules.obeyed_by(np.array(y))
        ]
        if found:
            break
    known = torch.full((3, num_labels), -1)
    for image in (1, 2):
        some = torch.tensor(found[rng.integers(len(found))])
        told = torch.from_numpy(rng.random(num_labels) < (0.3 if image == 1 else 0.7))
        known[image, told] = some[told]
    return replace(potentials, rules=rules), known
