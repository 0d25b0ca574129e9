"""The learned part above the features: a head for the unaries, and couplings between labels."""

import copy

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mlcrf.choices import InferenceName, ObjectiveName
from mlcrf.config import TrainSettings
from mlcrf.crf import Potentials, full_edges, keep_rules_in_state
from mlcrf.inference import InferenceMethod, make_inference
from mlcrf.latent import ScenePotentials, SceneSum
from mlcrf.rules import Rules


class LabelCrf(nn.Module):
    """A CRF whose potentials are functions of features: a head, and one coupling per edge.

        unary = W x + b                                     hidden = 0
        unary = W2 relu(W1 x + b1) + b2                     hidden > 0
        pairwise = J                                        rank = 0, the same for all images
        pairwise = J + sum_r tanh(g_r(x)) B_r               rank > 0, with g linear

    Gates are bounded because couplings multiply each other's effect: however odd an image is, its
    couplings differ from J by at most sum_r |B_r|; with free gates they would have no limit.
    With scenes, p(y | x) is a mixture instead, whose gates are linear in the features:

        gates = G x + c,    scene k adds shifts_k to the unaries

    and `transitions` says how scenes follow each other in an album; see `ScenePotentials`.

    B starts at zero, so the model starts as the constant one; g starts at random, so B has a
    gradient. Without edges it is the independent baseline.

    Args:
        edges: label pairs with a coupling, int64 (E, 2); all pairs if None.
        hidden: units of the hidden layer, 0 for none.
        rank: R, the number of gates.
        scenes: K, the number of latent scenes; 0 for none.
        rules: part of the state; see `keep_rules_in_state`.
        seed: of the initial weights of hidden layer and gates; everything else starts at zero.

    Attributes:
        pairwise: J, (E,).
        gates: D to R, or None; factors: B, (R, E), or None.
        scene_gates: D to K, shifts: (K, L), transitions: (K, K); or None.
    """

    edges: Tensor

    def __init__(
        self,
        num_features: int,
        num_labels: int,
        *,
        edges: Tensor | None = None,
        hidden: int = 0,
        rank: int = 0,
        scenes: int = 0,
        rules: Rules = Rules(),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.num_labels = num_labels
        pairs = full_edges(num_labels) if edges is None else edges
        self.register_buffer("edges", pairs.clone())  # loading a state writes into them
        self.rules = rules
        keep_rules_in_state(self)
        self.output = nn.Linear(hidden or num_features, num_labels)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.pairwise = nn.Parameter(torch.zeros(len(self.edges)))
        self.hidden: nn.Linear | None = None
        self.gates: nn.Linear | None = None
        self.factors: nn.Parameter | None = None
        self.scene_gates: nn.Linear | None = None
        self.shifts: nn.Parameter | None = None
        self.transitions: nn.Parameter | None = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if hidden:
                self.hidden = nn.Linear(num_features, hidden)
                nn.init.normal_(self.output.weight, std=0.01)
            if rank:
                self.gates = nn.Linear(num_features, rank)
                nn.init.normal_(self.gates.weight, std=num_features**-0.5 / 2)
                nn.init.zeros_(self.gates.bias)
                self.factors = nn.Parameter(torch.zeros(rank, len(self.edges)))
            if scenes:
                self.scene_gates = nn.Linear(num_features, scenes)
                nn.init.zeros_(self.scene_gates.weight)
                nn.init.zeros_(self.scene_gates.bias)
                self.shifts = nn.Parameter(torch.zeros(scenes, num_labels))
                self.transitions = nn.Parameter(torch.zeros(scenes, scenes))

    def forward(self, features: Tensor) -> Potentials:
        """Return potentials: features (N, D) to unary (N, L), pairwise (E,) or (N, E)."""
        pairwise: Tensor = self.pairwise
        if self.gates is not None and self.factors is not None:
            pairwise = pairwise + self.gates(features).tanh() @ self.factors
        unary = self.unary(features)
        if self.scene_gates is not None and self.shifts is not None:
            gates = self.scene_gates(features)
            return ScenePotentials(unary, self.edges, pairwise, self.rules, gates, self.shifts)
        return Potentials(unary, self.edges, pairwise, self.rules)

    def unary(self, features: Tensor) -> Tensor:
        """Return the log-odds of each label on its own: features (N, D) to (N, L)."""
        inner = features if self.hidden is None else self.hidden(features).relu()
        unary: Tensor = self.output(inner)
        return unary

    @torch.no_grad()
    def linear_part(self, features: Tensor, label: int) -> tuple[Tensor, float]:
        """Return the linear function of features that is a label's log-odds on its own here.

        With a hidden layer, it holds for features with the same units above zero.

        Args:
            features: of one image (D,).

        Returns:
            Weights (D,) and bias: unary_label = weights x + bias.
        """
        weights, bias = self.output.weight.detach()[label], self.output.bias.detach()[label]
        if self.hidden is not None:
            active = weights * (self.hidden(features) > 0)
            weights, bias = active @ self.hidden.weight, bias + active @ self.hidden.bias
        return weights, float(bias)

    @property
    def num_scenes(self) -> int:
        """K; 0 without scenes."""
        return 0 if self.shifts is None else len(self.shifts)

    @property
    def rank(self) -> int:
        """R; 0 if couplings are the same for all images."""
        return 0 if self.gates is None else self.gates.out_features

    def make_inference(self, name: InferenceName, settings: TrainSettings) -> InferenceMethod:
        """Return an inference method for the model's potentials.

        Args:
            settings: limits, sweeps and seed. Mean field is unrolled if the model was trained
                through it.
        """
        through_sweeps = settings.objective is ObjectiveName.UNROLLED_MEAN_FIELD
        method = make_inference(
            name,
            num_labels=self.num_labels,
            edges=self.edges,
            rules=self.rules,
            varies_by_image=self.rank > 0,
            max_exact_labels=settings.max_exact_labels,
            mean_field_sweeps=settings.mean_field_sweeps,
            unrolled=through_sweeps and name is settings.inference,
            seed=settings.seed,
        )
        return SceneSum(method) if self.num_scenes else method

    @torch.no_grad()
    def start_scenes(self, targets: Tensor, *, seed: int) -> None:
        """Set shifts and gates to scenes that differ: clusters of the images' label sets.

        A scene's shift is half the difference in log-odds between the label frequencies of its
        cluster and of all images, because unaries explain much of a scene already; its gate's bias
        is its share of the images. Unknown labels count with their usual frequency.

        Args:
            targets: 1 present, 0 absent, -1 unknown (N, L).
            seed: random seed of the clustering.
        """
        assert self.shifts is not None and self.scene_gates is not None
        y, known = (targets == 1).double().numpy(), (targets >= 0).numpy()
        usual = ((y * known).sum(0) + 0.5) / (known.sum(0) + 1)
        filled = np.where(known, y, usual)
        rng = np.random.default_rng(seed)
        _, cluster = scipy.cluster.vq.kmeans2(filled, self.num_scenes, minit="++", rng=rng)
        for scene in range(self.num_scenes):
            members = filled[cluster == scene]
            frequency = (members.sum(0) + 10 * usual) / (len(members) + 10)
            self.shifts[scene] = torch.from_numpy((_logit(frequency) - _logit(usual)) / 2)
            self.scene_gates.bias[scene] = np.log((len(members) + 1) / len(filled))

    @torch.no_grad()
    def scaled(self, unary: float, pairwise: float) -> "LabelCrf":
        """Return the model whose potentials are this one's, scaled; see `Potentials.scaled`."""
        result = self.clone()
        for factor, parameters in (
            (unary, (result.output.weight, result.output.bias, result.shifts)),
            (pairwise, (result.pairwise, result.factors)),
        ):
            for parameter in parameters:
                if parameter is not None:
                    parameter.mul_(factor)
        return result

    def clone(self) -> "LabelCrf":
        """Return a copy that shares nothing with this model."""
        return copy.deepcopy(self)

    def pairwise_matrix(self) -> Tensor:
        """Return J, the couplings at closed gates: symmetric with zero diagonal (L, L)."""
        empty = self.pairwise.new_zeros(1, self.num_labels)
        return Potentials(empty, self.edges, self.pairwise.detach()).pairwise_matrix()


def no_edges() -> Tensor:
    """Return the edge set of the independent baseline, int64 (0, 2)."""
    return torch.empty((0, 2), dtype=torch.int64)


def _logit(p: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.log(p / (1 - p))
    return result
