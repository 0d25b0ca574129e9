"""The CRFs that everything is measured on."""

from pathlib import Path

import torch

from mlcrf.backbones.extractor import FeatureExtractor
from mlcrf.checkpoint import load_run
from mlcrf.crf import Potentials, full_edges
from mlcrf.data.readers import ReadOptions, read_dataset
from mlcrf.data.splits import take_split

# mean and spread of unaries, size of couplings
_KINDS = {"even": (0.0, 1.5, 0.3), "photo": (-3.0, 2.0, 0.6), "rare": (-6.5, 3.0, 0.6)}
KINDS = tuple(_KINDS)


def random_model(num_labels: int, num_images: int, size: float, seed: int = 0) -> Potentials:
    """Unaries N(0, 1.5), couplings of all pairs N(0, size); standard deviations, float32."""
    generator = torch.Generator().manual_seed(seed)
    edges = full_edges(num_labels)
    unary = 1.5 * torch.randn(num_images, num_labels, generator=generator)
    return Potentials(unary, edges, size * torch.randn(len(edges), generator=generator))


def typical_model(
    kind: str, num_labels: int, *, neighbours: int | None, num_images: int = 1, seed: int = 0
) -> Potentials:
    """CRFs of which labels are present about as often as the kind says, float32.

    Args:
        kind: `even` labels are present about half of the time, those of a `photo` seldom, `rare`
            ones hardly ever.
        neighbours: edges of a label on average; None couples all pairs, each the more weakly the
            more labels there are.
    """
    generator = torch.Generator().manual_seed(seed)
    mean, spread, size = _KINDS[kind]
    if neighbours is None:
        edges, size = full_edges(num_labels), size * (24 / num_labels) ** 0.5
    else:
        edges = sparse_edges(num_labels, num_labels * neighbours // 2, generator)
    unary = mean + spread * torch.randn(num_images, num_labels, generator=generator)
    return Potentials(unary, edges, size * torch.randn(len(edges), generator=generator))


def tree_model(num_labels: int, *, num_images: int, seed: int = 0) -> Potentials:
    """Labels of a photo on a random tree, float32."""
    generator = torch.Generator().manual_seed(seed)
    child = torch.arange(1, num_labels)
    parent = (torch.rand(num_labels - 1, generator=generator) * child).long()
    mean, spread, size = _KINDS["photo"]
    unary = mean + spread * torch.randn(num_images, num_labels, generator=generator)
    pairwise = size * torch.randn(num_labels - 1, generator=generator)
    return Potentials(unary, torch.stack([parent, child], 1), pairwise)


def sparse_edges(num_labels: int, num_edges: int, generator: torch.Generator) -> torch.Tensor:
    """Pairs drawn without putting back, int64 (E, 2); never lists all pairs."""
    codes = torch.empty(0, dtype=torch.int64)
    while len(codes) < num_edges:
        drawn = torch.randint(num_labels, (2 * num_edges, 2), generator=generator).sort(1).values
        pairs = drawn[drawn[:, 0] < drawn[:, 1]]
        codes = torch.cat([codes, pairs[:, 0] * num_labels + pairs[:, 1]]).unique()
    kept = codes[torch.randperm(len(codes), generator=generator)[:num_edges]].sort().values
    return torch.stack([kept // num_labels, kept % num_labels], 1)


def learned_model(data: Path, run_path: Path, limit: int) -> Potentials:
    """Potentials of a run for the first images of a data set's test split."""
    run = load_run(run_path)
    options = ReadOptions(run.label_set, labels=run.labels)
    manifest = take_split(read_dataset(data, options), "test")
    features = FeatureExtractor(run.make_backbone()).matrix(manifest.images[:limit])
    with torch.no_grad():
        return run.crf(torch.from_numpy(features))


def as_double(potentials: Potentials) -> Potentials:
    """The same in float64."""
    return Potentials(
        potentials.unary.double(),
        potentials.edges,
        potentials.pairwise.double(),
        potentials.rules,
    )
