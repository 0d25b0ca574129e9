"""Albums: transitions between the latent scenes of consecutive images."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mlcrf.crf import Potentials, check_known
from mlcrf.errors import RunError
from mlcrf.inference import InferenceMethod
from mlcrf.latent.scene_potentials import ScenePotentials
from mlcrf.latent.scene_sum import SceneSum

_PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4)
_STEPS = 200


@dataclass(frozen=True)
class SceneChain:
    """A hidden Markov model over the scenes of an album's images in turn, with neural scores:

        p(z | x) ~ exp( sum_t gates_t[z_t] + sum_t transitions[z_t, z_t+1] )

    With equal transitions the images are independent.

    Attributes:
        transitions: score of a scene (row) being followed by a scene (column), (K, K).
    """

    transitions: Tensor

    def log_partition(self, scores: Tensor) -> Tensor:
        """Return the log-sum over all scenes of all images: (..., T, K) -> (...).

        The forward algorithm.

        Cost: O(T K^2). Differentiable.
        """
        return self._forward(scores)[..., -1, :].logsumexp(-1)

    def marginals(self, scores: Tensor) -> Tensor:
        """Return P(scene of each image given the whole album): (..., T, K) -> (..., T, K).

        Forward-backward. Cost: O(T K^2).
        """
        forward = self._forward(scores)
        turned = SceneChain(self.transitions.T)
        backward = turned._forward(scores.flip(-2)).flip(-2)
        return (forward + backward - scores).softmax(-1)

    def _forward(self, scores: Tensor) -> Tensor:
        """Return the log-sum over the scenes of earlier images, own score included, (..., T, K)."""
        steps = [scores[..., 0, :]]
        for now in scores.unbind(-2)[1:]:
            before = steps[-1].unsqueeze(-1) + self.transitions
            steps.append(now + before.logsumexp(-2))
        return torch.stack(steps, -2)


def share_in_albums(
    potentials: Potentials,
    method: InferenceMethod,
    transitions: Tensor,
    albums: Sequence[Sequence[int]],
    *,
    known: Tensor | None = None,
) -> ScenePotentials:
    """Return mixtures whose gates include the evidence from other images of the same album.

    Known labels of one image inform other images through their scenes. The known labels of an
    image itself still have to be passed to `method`.

    Args:
        potentials: mixtures over scenes.
        method: a sum over scenes.
        transitions: see `SceneChain`.
        albums: rows of the images of each album, in their order.

    Cost: that of `method`, and O(T K^2) per album of T images.
    """
    mixture, scene_sum = _latent(potentials, method)
    chain, clamped = SceneChain(transitions), check_known(mixture, known)
    gates = mixture.gates.clone()
    for places in albums:
        rows = torch.tensor(places, device=gates.device)
        album = mixture.rows(rows)
        scores = album.gates.log_softmax(-1)
        evidence = scene_sum.evidence(album, clamped[rows])
        heard = chain.marginals(scores + evidence).clamp(min=torch.finfo(scores.dtype).tiny).log()
        gates[rows] = heard - evidence  # `method` adds this evidence again, by `known`
    return replace(mixture, gates=gates)


@dataclass(frozen=True)
class AlbumScores:
    """Scores of the scenes of N images, from the images and from their labels.

    Attributes:
        gates: log P(scene given the image alone) (N, K).
        evidence: log P(labels given the scene) (N, K).
        places: rows of the images of each album, in order; one tensor (albums, T) per length T.
    """

    gates: Tensor
    evidence: Tensor
    places: tuple[Tensor, ...]

    @classmethod
    @torch.no_grad()
    def from_parts(
        cls,
        parts: Sequence[tuple[Potentials, Tensor, Sequence[Sequence[int]]]],
        method: InferenceMethod,
    ) -> "AlbumScores":
        """Return the scores of one or more sets of images: potentials, targets and albums."""
        gates, evidence, places = [], [], []
        begin = 0
        for potentials, targets, albums in parts:
            mixture, scene_sum = _latent(potentials, method)
            gates.append(mixture.gates.log_softmax(-1).double())
            evidence.append(scene_sum.evidence(mixture, targets).double())
            places += [torch.tensor(album, device=targets.device) + begin for album in albums]
            begin += len(targets)
        by_length: dict[int, list[Tensor]] = {}
        for album in places:
            by_length.setdefault(len(album), []).append(album)
        stacked = tuple(torch.stack(same) for length, same in by_length.items() if length > 1)
        return cls(torch.cat(gates), torch.cat(evidence), stacked)

    def gain(self, chain: SceneChain) -> Tensor:
        """Return the gain in log-likelihood over separate images, in nats per image.

        log Z(gates + evidence) - log Z(gates) - sum_t log P(labels of t given image t)
        """
        total = self.gates.new_zeros(())
        for album in self.places:
            told = (self.gates + self.evidence)[album]
            joint = chain.log_partition(told) - chain.log_partition(self.gates[album])
            total = total + joint.sum() - told.logsumexp(-1).sum()
        return total / max(1, len(self.gates))


def fit_transitions(scores: AlbumScores, *, penalty: float) -> Tensor:
    """Return the transitions (K, K) of highest gain minus penalty / 2 |T|^2, by L-BFGS from 0.

    Raises:
        RunError: the gain or its gradient is not finite.

    Cost: about 200 times O(N K^2).
    """
    num_scenes = scores.gates.shape[1]
    transitions = scores.gates.new_zeros(num_scenes, num_scenes).requires_grad_()
    optimiser = torch.optim.LBFGS([transitions], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def evaluate() -> Tensor:
        optimiser.zero_grad()
        squares = transitions.square().sum()
        loss = penalty / 2 * squares - scores.gain(SceneChain(transitions))
        loss.backward()  # type: ignore[no-untyped-call]
        assert transitions.grad is not None
        if not bool(torch.isfinite(loss + transitions.grad.sum())):
            raise RunError("transitions: the gain is not finite; leave out --album")
        return loss

    optimiser.step(evaluate)  # type: ignore[no-untyped-call]
    return transitions.detach().clone()


@dataclass(frozen=True)
class ChosenTransitions:
    """Transitions (K, K), the penalty they were fitted with, and the gain of held-out albums."""

    transitions: Tensor
    penalty: float
    gain: float


def choose_transitions(
    train: AlbumScores, held_out: AlbumScores, *, log: Callable[[str], None]
) -> ChosenTransitions:
    """Return the transitions, fitted on `train`, by which held-out albums gain most.

    Raises:
        RunError: a gain is not finite.
    """
    tried = []
    for penalty in _PENALTIES:
        transitions = fit_transitions(train, penalty=penalty)
        gain = float(held_out.gain(SceneChain(transitions)))
        if not math.isfinite(gain):
            raise RunError("transitions: the gain is not finite; leave out --album")
        log(f"transitions, penalty {penalty:g}: held-out albums gain {gain:.4f} nats per image")
        tried.append(ChosenTransitions(transitions, penalty, gain))
    return max(tried, key=lambda one: one.gain)


def _latent(potentials: Potentials, method: InferenceMethod) -> tuple[ScenePotentials, SceneSum]:
    assert isinstance(potentials, ScenePotentials) and isinstance(method, SceneSum)
    return potentials, method
