"""Train the last stage of a network on activations that the layers before it gave once.

Of several networks each is trained by itself: side by side, one would leave the rest to the other.

An epoch then costs a fraction of one through the whole network, so that two cores suffice. The
features of training images fit them better than those of new images afterwards, so it is validation
images that choose the penalties of the heads, and whether the trained weights are used at all.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mlcrf.backbones.feature_matrix import Matrix, read_rows, read_spread
from mlcrf.backbones.network_split import NetworkParts, split_network
from mlcrf.backbones.registry import Backbone
from mlcrf.choices import ObjectiveName, Structure
from mlcrf.config import TrainSettings
from mlcrf.crf import Potentials
from mlcrf.data.manifest import Manifest
from mlcrf.errors import RunError, SettingsError
from mlcrf.hints import counted
from mlcrf.images import Image
from mlcrf.model import LabelCrf
from mlcrf.processes import Processes
from mlcrf.training.examples import Examples
from mlcrf.training.extraction import Environment, extract, keep_features
from mlcrf.training.finite import diverging
from mlcrf.training.fitting import fit_baseline
from mlcrf.training.plan import Plan, make_minimiser
from mlcrf.training.progress import EpochFinished, Log, TaskProgress, TaskStarted
from mlcrf.training.stages import Result, Stages
from mlcrf.training.stepping import FINETUNE, Training, copy_weights

_VIEWS = 2  # of an image: as it is, and mirrored
_AT_ONCE = 256  # images per batch of features
_LARGEST_NORM = 5.0  # of a gradient
_DROPPED = 0.5  # chance that a step leaves a feature out
_MOST_STEPS = 625  # of a training with the weight decay that is given; of more, all decay as much
_SMALLEST_SPREAD = 0.1  # of a feature, relative to the root mean square of all
_ACTIVATIONS = "activations"  # as the task is shown
_REMEDY = "lower --set learning_rate"
_OF_THE_BASELINE = (  # settings that it has in the run too
    "penalties",
    "pos_weight",
    "focus_positive",
    "focus_negative",
    "margin",
)
_TOLERANCE = 1e-4  # of its fits, in nats an image


def finetune_last(
    backbone: Backbone,
    train: Manifest,
    validation: Manifest,
    plan: Plan,
    stages: Stages,
    log: Log,
    environment: Environment = Environment(),
) -> Result:
    """Train the last stage of each network, with a linear head on top, on the loss of labels.

    The layers before it give the activations of every image and of its mirror image once. AdamW
    then starts from the convex head of the published features; statistics of batch normalisation
    stay as they are. Each image is mirrored half of the time, and the head sees half of the
    features, drawn anew for each image (dropout). Each epoch is a stage, as in
    `--finetune all`; activations are computed again by a run that is resumed. Every process makes
    all steps, on activations that they computed together, and takes the weights of the first.

    Args:
        backbone: is not changed.

    Returns:
        `best`: weights of the backbone; empty if none are used. Those of a network are used if they
        make the loss of its baseline on validation images less by more than a standard error.
        `last`: weights after the last epoch; `losses`: by epoch training and validation loss of the
        head, network after network; `gains`: of each network that difference in nats an image, and
        its standard error.

    Raises:
        BackboneError: it is not known where a network's last stage begins.
        DataError: images that cannot be read, all named.
        RunError: loss, gradient or weights are not finite; the state of earlier epochs is kept.
        SettingsError: there are no validation images.

    Cost: for each network one pass through it for two views of each image, then about three passes
    through its last stage for each image and epoch; memory for two views of all activations, 75 kB
    an image with lite0.
    """
    if not len(validation):
        raise SettingsError(
            "--finetune last needs validation images to judge it by, and there are none"
        )

    def learn(network: Backbone, stage: str) -> Result:
        return _finetune_one(network, (train, validation), plan, stages, stage, log, environment)

    if not backbone.parts:
        return learn(backbone, FINETUNE)
    found = []
    for part in backbone.parts:
        stage = f"{FINETUNE} {part.spec.name}"
        found.append(stages.run(f"{stage}: network", partial(learn, part, stage)))
    is_used = any(one["best"] for one in found)
    published = [copy_weights(part) for part in backbone.parts]
    best = [one["best"] or old for one, old in zip(found, published, strict=True)]
    return {
        "best": backbone.join_weights(best) if is_used else {},
        "last": backbone.join_weights([one["last"] for one in found]),
        "losses": [losses for one in found for losses in one["losses"]],
        "gains": [gain for one in found for gain in one["gains"]],
    }


def _finetune_one(
    network: Backbone,
    parts: tuple[Manifest, Manifest],
    plan: Plan,
    stages: Stages,
    stage: str,
    log: Log,
    environment: Environment,
) -> Result:
    """Train the last stage of one network; see `finetune_last`."""
    train, validation = parts
    tuned, device, processes = copy.deepcopy(network), environment.device, environment.processes
    halves = split_network(tuned)
    images = train.images + validation.images
    stamps = [image.stamp() for image in images]
    log(
        "activations of "
        f"{counted(len(images), 'image')} and their mirror images, before the last stage of "
        f"{network.spec.name}"
    )
    log(TaskStarted(_ACTIVATIONS))
    both = _extract(halves, images, environment, log)
    activations = _Activations(halves, both, device, averaged=network.spec.views > 1)
    targets = np.concatenate([train.targets, validation.targets])
    log(TaskStarted("baseline on the published weights"))
    before = _Baseline.fit(activations.features(), targets, len(train), plan)
    losses = _learn(activations, before, targets, plan, stages, stage, log)
    tuned.cpu()
    _take_from_first(tuned, processes)
    activations.rest.to(device)
    log(TaskStarted("baseline on the trained weights"))
    features = activations.features()
    after = _Baseline.fit(features, targets, len(train), plan)
    tuned.cpu()
    gains = torch.from_numpy(before.losses - after.losses) / processes.size
    processes.all_reduce(gains)
    gain, error = float(gains.mean()), float(gains.std(correction=0) / len(gains) ** 0.5)
    is_better = gain > error
    log(
        f"{stage}: loss of the baseline on {counted(len(validation), 'validation image')} "
        f"{before.losses.mean():.4f} with the published weights, {after.losses.mean():.4f} with "
        f"those trained, a gain of {gain:.4f} +- {error:.4f}: "
        f"{'the trained' if is_better else 'the published'} weights are used"
    )
    last = copy_weights(tuned)
    best = last if is_better else {}
    if is_better and network.spec.views <= _VIEWS:
        trained = copy.deepcopy(network)
        trained.take(best)
        keep_features(trained, images, stamps, features, environment)
    return {"best": best, "last": last, "losses": losses, "gains": [[gain, error]]}


def _extract(
    parts: NetworkParts, images: Sequence[Image], environment: Environment, log: Log
) -> Matrix:
    """Return the activations of all images; only those too large for memory are kept in files."""
    size = len(images) * parts.front.num_features * 4
    in_memory = size <= environment.in_memory
    where = replace(environment, cache_dir=None) if in_memory else environment

    def show(done: int, total: int) -> None:
        log(TaskProgress(_ACTIVATIONS, done / max(1, total)))

    return extract(parts.front, images, where, progress=show)


class _Activations:
    """Activations of images and of their mirror images, and the layers that go on from there."""

    def __init__(
        self, parts: NetworkParts, both: Matrix, device: torch.device, *, averaged: bool
    ) -> None:
        self.rest, self.device = parts.rest.to(device), device
        self._parts, self._both = parts, both
        self._averaged = averaged

    def features(self, rows: slice = slice(None)) -> NDArray[np.float32]:
        """Return the features of images by the layers as they are now, (N, D).

        They are those of the plain image, or of several views the mean with the mirrored image.
        """
        count = len(range(len(self._both))[rows])
        first = rows.start or 0
        found = []
        with torch.inference_mode():
            for at in range(first, first + count, _AT_ONCE):
                block = read_rows(self._both, slice(at, min(at + _AT_ONCE, first + count)))
                views = self._views(block)[: 2 if self._averaged else 1]
                found.append(torch.stack([self.rest(one) for one in views]).mean(0))
        return torch.cat(found).cpu().numpy()

    def read(self, rows: NDArray[np.int64], *, mirrored: NDArray[np.bool_]) -> Tensor:
        """Return the activations of some images, each of its plain or its mirrored view."""
        plain, other = self._views(read_spread(self._both, rows))
        choice = torch.from_numpy(mirrored).to(self.device)
        return torch.where(choice.reshape(-1, *[1] * (plain.ndim - 1)), other, plain)

    def _views(self, block: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        both = torch.from_numpy(np.ascontiguousarray(block)).to(self.device)
        plain, mirrored = both.tensor_split(2, 1)
        return self._parts.as_maps(plain), self._parts.as_maps(mirrored)


@dataclass(frozen=True)
class _Baseline:
    """The convex head of features, with its loss on each validation image (N,)."""

    head: LabelCrf
    mean: Tensor
    spread: Tensor
    losses: NDArray[np.float64]

    @classmethod
    def fit(
        cls, features: NDArray[np.float32], targets: NDArray[np.int8], num_train: int, plan: Plan
    ) -> "_Baseline":
        """Fit it to the first `num_train` images, with a penalty chosen on the others."""
        given = plan.settings
        settings = TrainSettings(
            structure=Structure.INDEPENDENT,
            seed=given.seed,
            tolerance=max(given.tolerance, _TOLERANCE),
            **{name: getattr(given, name) for name in _OF_THE_BASELINE},
        )
        train = Examples(features[:num_train], targets[:num_train])
        validation = Examples(features[num_train:], targets[num_train:])
        head = fit_baseline(train, validation, plan.labels, settings).on_train
        learned = torch.from_numpy(train.features).double()
        spread = learned.std(0, correction=0)
        loss = make_minimiser(plan, ObjectiveName.INDEPENDENT).loss
        with torch.no_grad():
            rows = [slice(row, row + 1) for row in range(len(validation.targets))]
            losses = [
                float(
                    loss(
                        validation.potentials(head, one), torch.from_numpy(validation.targets[one])
                    )
                )
                for one in rows
            ]
        _require_finite("the loss of the baseline is", torch.tensor(sum(losses)))
        return cls(head, learned.mean(0).float(), spread.float(), np.array(losses))


def _learn(
    activations: _Activations,
    start: _Baseline,
    targets: NDArray[np.int8],
    plan: Plan,
    stages: Stages,
    stage: str,
    log: Log,
) -> list[tuple[float, float]]:
    """Train the layers after the activations, in place; return losses of each epoch."""
    settings, device = plan.settings, activations.device
    loss_of = make_minimiser(plan, ObjectiveName.INDEPENDENT).loss
    num_train = len(targets) - len(start.losses)
    head = _StandardisedHead(start)
    modules = nn.ModuleDict({"rest": activations.rest, "head": head}).to(device)
    batches = math.ceil(num_train / settings.batch_size)
    steps = settings.epochs * batches
    decay = settings.weight_decay * min(1, _MOST_STEPS / steps)
    decayed = settings.model_copy(update={"weight_decay": decay})
    training = Training(modules, decayed, steps, stages, stage)
    losses = training.losses
    known = torch.from_numpy(targets.astype(np.int64)).to(device)
    for epoch in range(len(losses), settings.epochs):
        rng, total = np.random.default_rng((settings.seed, epoch)), 0.0
        parts = np.array_split(rng.permutation(num_train), batches)
        for done, rows in enumerate(parts, epoch * batches + 1):
            maps = activations.read(rows, mirrored=rng.random(len(rows)) < 0.5)
            kept = rng.random((len(rows), len(start.mean)), np.float32) >= _DROPPED
            with diverging(FINETUNE):
                features = activations.rest(maps)
                loss = loss_of(head(features, torch.from_numpy(kept).to(device)), known[rows])
            _require_finite("the loss is", loss)
            training.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(modules.parameters(), _LARGEST_NORM)
            _require_finite("the norm of the gradient is", norm)
            training.optimiser.step()
            training.schedule.step()
            total += float(loss.detach()) * len(rows) / num_train
            log(TaskProgress(stage, done / steps))
        with torch.no_grad(), diverging(FINETUNE):
            found = torch.from_numpy(activations.features(slice(num_train, len(targets))))
            checked = loss_of(head(found.to(device)), known[num_train:])
        _require_finite("the loss is", checked)
        losses.append((total, float(checked)))
        log(EpochFinished(stage, epoch + 1, settings.epochs, *losses[-1]))
        training.keep()
    return losses


class _StandardisedHead(nn.Module):
    """A linear head without couplings on standardised features, which suit one learning rate.

    A feature that hardly varies is divided by more than its spread, and its weight is the smaller
    for it: it would else blow up once its layer learns.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, start: _Baseline) -> None:
        super().__init__()
        smallest = _SMALLEST_SPREAD * float(start.spread.square().mean().sqrt()) or 1.0
        self.register_buffer("mean", start.mean)
        self.register_buffer("spread", start.spread.clamp(min=smallest))
        self.model = start.head.clone()
        with torch.no_grad():
            weight = start.head.output.weight
            self.model.output.weight.copy_(weight * start.spread)
            self.model.output.bias.add_(weight @ start.mean)

    def forward(self, features: Tensor, kept: Tensor | None = None) -> Potentials:
        """Return potentials of features (N, D); those that are not `kept` count as their mean."""
        standard = (features - self.mean) / self.spread
        if kept is not None:
            standard = standard * kept / (1 - _DROPPED)
        potentials: Potentials = self.model(standard)
        return potentials


def _require_finite(what: str, value: Tensor) -> None:
    if not bool(torch.isfinite(value)):
        raise RunError(f"finetune: {what} {float(value.detach())}; {_REMEDY}")


def _take_from_first(backbone: Backbone, processes: Processes) -> None:
    """Give every process the weights of the first, which others may have to the last bits only."""
    for value in backbone.state_dict().values():
        if value.is_floating_point() and processes.size > 1:
            own = value if processes.is_first else torch.zeros_like(value)
            processes.all_reduce(own)
            value.copy_(own)
