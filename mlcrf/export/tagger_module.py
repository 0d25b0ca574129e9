"""A run as one exportable torch module: pixels in, marginals out, no data-dependent branches."""

from typing import assert_never

import torch
from torch import Tensor, nn

from mlcrf.backbones.registry import Backbone
from mlcrf.checkpoint import Run
from mlcrf.choices import GraphInference, InferenceName
from mlcrf.crf import Potentials
from mlcrf.errors import RunError, TooManyLabelsError
from mlcrf.export.marginals import (
    BetheMarginals,
    Marginals,
    MeanFieldMarginals,
    SplitMarginals,
)
from mlcrf.inference import count_states

OUTPUTS = ("marginals", "independent")
_SWEEPS = 50  # unless the run was trained through a number of sweeps of mean field
_LARGEST_PER_IMAGE = 20  # log2 of the largest number of states in memory per image


class TaggerModule(nn.Module):
    """Pixels, uint8 (N, H, W, 3), to P(label present) under the CRF and the baseline, (N, L) each.

    A backbone of several networks has one input per distinct image size, in the order of `inputs`.
    Latent scenes are summed out for each image separately.

    Args:
        marginals: the inference module; for a mixture, the one used within each scene.

    Attributes:
        inputs: name -> side of the square images.
    """

    matrix: Tensor
    offset: Tensor
    factors: Tensor | None

    def __init__(self, run: Run, backbone: Backbone, marginals: Marginals) -> None:
        super().__init__()
        self.parts = nn.ModuleList(backbone.parts or (backbone,))
        sizes = [part.spec.size_px for part in backbone.parts or (backbone,)]
        distinct = sorted(set(sizes))
        self._input_of = [distinct.index(size) for size in sizes]
        names = ["pixels"] if len(distinct) == 1 else [f"pixels_{size}" for size in distinct]
        self.inputs = dict(zip(names, distinct, strict=True))
        self.crf = run.crf.clone().requires_grad_(False)
        self.independent = run.independent.clone().requires_grad_(False)
        self.marginals = marginals
        offset, matrix, factors = _couplings(run, marginals)
        self.register_buffer("offset", offset)
        self.register_buffer("matrix", matrix)
        self.register_buffer("factors", factors)

    @property
    def inference(self) -> str:
        scenes = self.crf.num_scenes
        within = self.marginals.name
        return f"sum over {scenes} scenes, {within} within each" if scenes else within

    @property
    def is_exact(self) -> bool:
        return self.marginals.is_exact

    def forward(self, *pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return marginals under the CRF and under the baseline, (N, L) each."""
        return self.tag(self.features(*pixels))

    def features(self, *pixels: Tensor) -> Tensor:
        """Return the features of all networks, concatenated (N, D)."""
        found = [part(pixels[at]) for part, at in zip(self.parts, self._input_of, strict=True)]
        return torch.cat(found, -1)

    def tag(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return both marginals from features (N, D)."""
        crf = self.crf
        unary, matrix = crf.unary(features) + self.offset, self.matrix
        if crf.gates is not None and self.factors is not None:
            matrix = matrix + torch.einsum("nr,rij->nij", crf.gates(features).tanh(), self.factors)
        if crf.scene_gates is None or crf.shifts is None:
            p = self.marginals(unary, matrix)
        else:
            weights = crf.scene_gates(features).softmax(-1)
            by_scene = (unary.unsqueeze(1) + crf.shifts).flatten(0, 1)
            within = self.marginals(by_scene, matrix).unflatten(0, (-1, crf.num_scenes))
            p = (weights.unsqueeze(-1) * within).sum(1)
        return p, self.independent.unary(features).sigmoid()


def choose_marginals(
    run: Run, wanted: GraphInference = GraphInference.AUTO, *, max_exact_labels: int = 24
) -> list[Marginals]:
    """Return the candidate inference modules of a run's graph; export takes the closest to the run.

    A run that was trained through mean field keeps it, with its number of sweeps. Otherwise
    inference is exact up to 2^`max_exact_labels` states, or 2^20 if all are in memory for each
    image; above, mean field and loopy belief propagation are candidates.

    Raises:
        RunError: the run was trained through convex belief propagation, or couplings vary by image
            and scene.
        TooManyLabelsError: exact inference is requested for too many labels.
    """
    own = run.settings.inference
    varies = run.crf.rank > 0
    if run.crf.num_scenes and varies:
        raise RunError(f"{run.path}: scenes with couplings that vary by image cannot be exported")
    own_sweeps = own is InferenceName.PARALLEL_MEAN_FIELD
    mean_field = MeanFieldMarginals(run.settings.mean_field_sweeps if own_sweeps else _SWEEPS)
    match wanted:
        case GraphInference.MEAN_FIELD:
            return [mean_field]
        case GraphInference.BETHE:
            return [BetheMarginals(_SWEEPS)]
        case GraphInference.AUTO if own is InferenceName.CONVEX_BP:
            raise RunError(
                f"{run.path}: was trained through convex belief propagation, which cannot be "
                "exported, and its couplings do not fit other methods; train with another "
                "--objective, or choose --inference exact, mean-field or bethe all the same"
            )
        case GraphInference.AUTO if own in (
            InferenceName.MEAN_FIELD,
            InferenceName.PARALLEL_MEAN_FIELD,
        ):
            return [mean_field]
        case GraphInference.AUTO | GraphInference.EXACT:
            exact = _exact(run, max_exact_labels)
            if exact is not None:
                return [exact]
            if wanted is GraphInference.EXACT:
                raise TooManyLabelsError(
                    f"{run.path}: exact inference over its {len(run.labels)} labels takes "
                    f"more than 2**{max_exact_labels} states; leave --inference out, or raise "
                    "--max-exact-labels where memory allows"
                )
            return [mean_field, BetheMarginals(_SWEEPS)]
        case _:
            assert_never(wanted)


def _exact(run: Run, max_exact_labels: int) -> Marginals | None:
    crf = run.crf
    if not len(crf.edges) and not len(crf.rules):
        return Marginals()
    if count_states(len(run.labels), crf.rules) > max_exact_labels:
        return None
    matrix = crf.pairwise_matrix()
    if crf.factors is not None:
        matrix = matrix.abs() + _matrices(crf.factors.detach(), crf.edges, matrix).abs().sum(0)
    split = SplitMarginals(matrix, crf.rules, varies_by_image=crf.rank > 0)
    return split if split.dtype or split.log2_states <= _LARGEST_PER_IMAGE else None


def _couplings(run: Run, marginals: Marginals) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the offset of unaries (L,), couplings (L, L), and couplings of gates (R, L, L)."""
    crf = run.crf
    pairwise = crf.pairwise.detach()
    plain = Potentials(pairwise.new_zeros(1, len(run.labels)), crf.edges, pairwise, crf.rules)
    coupled = plain if marginals.is_exact else plain.as_couplings()
    if coupled is not plain and coupled.rules.limits:
        rule = coupled.rules.limits[0].text(run.labels.names)
        raise RunError(
            f"{run.path}: {marginals.name} cannot keep to the rule `{rule}`; only "
            "--inference exact can be exported with it"
        )
    matrix = coupled.pairwise_matrix()
    factors = None
    if crf.factors is not None:
        factors = _matrices(crf.factors.detach(), crf.edges, matrix)
    return coupled.unary[0], matrix, factors


def _matrices(by_edge: Tensor, edges: Tensor, like: Tensor) -> Tensor:
    """Return symmetric matrices (R, L, L) from one number per edge (R, E)."""
    empty = like.new_zeros(len(by_edge), len(like))
    return Potentials(empty, edges, by_edge).pairwise_matrix()
