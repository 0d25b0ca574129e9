"""How latent scenes follow each other in albums: a hidden Markov model on top of a mixture."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np
import torch
from torch import Tensor

from mlcrf.crf import ScenePotentials
from mlcrf.data.manifest import Manifest
from mlcrf.errors import DataError, RunError
from mlcrf.images.albums import find_albums
from mlcrf.inference import SceneChain, SceneSum
from mlcrf.model import LabelCrf
from mlcrf.training.finite import diverging, require_finite
from mlcrf.training.heads import Examples, Fitted

_PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4)
_STEPS = 200


@dataclass(frozen=True)
class Albums:
    """What scenes of N photos are told by the photos and by their labels.

    Attributes:
        gates: log P(scene given the photo alone) (N, K).
        evidence: log P(labels given the scene) (N, K).
        places: those of each album's photos, in their order; albums of one length in a row of
            tensors (albums, T).
    """

    gates: Tensor
    evidence: Tensor
    places: tuple[Tensor, ...]

    def gain(self, chain: SceneChain) -> Tensor:
        """Log-likelihood of all label sets above that of photos apart, in nats a photo.

        log Z(gates + evidence) - log Z(gates) - sum_t log P(labels of t given photo t)
        """
        total = self.gates.new_zeros(())
        for album in self.places:
            told = (self.gates + self.evidence)[album]
            joint = chain.log_partition(told) - chain.log_partition(self.gates[album])
            total = total + joint.sum() - told.logsumexp(-1).sum()
        return total / max(1, len(self.gates))


def fit_transitions(albums: Albums, *, penalty: float) -> Tensor:
    """Transitions (K, K) of highest gain less penalty / 2 |T|^2, by L-BFGS from 0.

    Raises:
        RunError: the gain or its gradient is not finite.

    Cost: some 200 times O(N K^2).
    """
    num_scenes = albums.gates.shape[1]
    transitions = torch.zeros(num_scenes, num_scenes, dtype=albums.gates.dtype, requires_grad=True)
    optimiser = torch.optim.LBFGS([transitions], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        squares = transitions.square().sum()
        loss = penalty / 2 * squares - albums.gain(SceneChain(transitions))
        loss.backward()  # type: ignore[no-untyped-call]
        assert transitions.grad is not None
        if not bool(torch.isfinite(loss + transitions.grad.sum())):
            raise RunError("transitions: the gain is not finite; leave out --album")
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return transitions.detach().clone()


Groups = list[list[int]]


def training_albums(train: Manifest, held_out: Manifest, gap: timedelta) -> tuple[Groups, Groups]:
    """The albums of both, by the places of their photos.

    Raises:
        DataError: no training album has two photos.
    """
    groups = find_albums(train.images, gap=gap), find_albums(held_out.images, gap=gap)
    if all(len(album) < 2 for album in groups[0]):
        raise DataError(
            f"{train.name}: no two training photos are in one folder and taken close in time; "
            "leave out --album, or put the photos of an album into a folder of their own"
        )
    return groups


def learn_transitions(
    fitted: Fitted,
    method: SceneSum,
    examples: tuple[Examples, Examples],
    groups: tuple[Groups, Groups],
    *,
    log: Callable[[str], None],
) -> Fitted:
    """The same models, told how scenes follow each other in the albums of the training images.

    The penalty is chosen on the albums of held-out images; what these gain over photos apart goes
    into the report. The final model learns from all albums.

    Args:
        examples, groups: of training and of held-out images.
    """
    parts = [
        _albums(fitted.on_train, method, [part], [group])
        for part, group in zip(examples, groups, strict=True)
    ]
    tried = {}
    for penalty in _PENALTIES:
        transitions = fit_transitions(parts[0], penalty=penalty)
        gain = float(parts[1].gain(SceneChain(transitions)))
        require_finite("transitions", {"gain": gain})
        log(f"transitions, penalty {penalty:g}: held-out albums gain {gain:.4f} nats a photo")
        tried[penalty] = gain, transitions
    penalty = max(tried, key=lambda one: tried[one][0])
    everything = _albums(fitted.model, method, examples, groups)
    _assign(fitted.on_train, tried[penalty][1])
    _assign(fitted.model, fit_transitions(everything, penalty=penalty))
    report = fitted.report | {"transition_penalty": penalty, "album_gain": tried[penalty][0]}
    return replace(fitted, report=report)


@diverging("transitions")
@torch.no_grad()
def _albums(
    model: LabelCrf,
    method: SceneSum,
    examples: Sequence[Examples],
    groups: Sequence[Groups],
) -> Albums:
    gates, evidence, placed = [], [], []
    begin = 0
    for part, group in zip(examples, groups, strict=True):
        potentials = model(torch.from_numpy(np.asarray(part.features)))
        assert isinstance(potentials, ScenePotentials)
        gates.append(potentials.gates.log_softmax(-1).double())
        evidence.append(method.evidence(potentials, torch.from_numpy(part.targets)).double())
        placed += [torch.tensor(album) + begin for album in group]
        begin += len(part.targets)
    by_length: dict[int, list[Tensor]] = {}
    for album in placed:
        by_length.setdefault(len(album), []).append(album)
    places = tuple(torch.stack(albums) for length, albums in by_length.items() if length > 1)
    return Albums(torch.cat(gates), torch.cat(evidence), places)


@torch.no_grad()
def _assign(model: LabelCrf, transitions: Tensor) -> None:
    assert model.transitions is not None
    model.transitions.copy_(transitions)
