"""Heads that are a little network each: several, learned with dropout, whose mean is the head.

The images are cut in as many parts as there are members, and each member learns from all parts
but one. So for every image there are log-odds from a member that has not seen it, and couplings
learned on those expect the errors that new photos will have. A photo meets the mean of all.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mlcrf.choices import ObjectiveName
from mlcrf.crf import Potentials
from mlcrf.errors import RunError, SettingsError
from mlcrf.model import LabelCrf, no_edges
from mlcrf.training.extraction import Environment
from mlcrf.training.heads import Examples, Fitted, HeadTrainer
from mlcrf.training.plan import Plan, make_minimiser
from mlcrf.training.progress import Log
from mlcrf.training.schedule import one_cycle
from mlcrf.training.stages import Result, Stages

# on log-odds, which are few and of one size; those of the settings are for hundreds of features
_PENALTIES = (1e-4, 1e-3, 1e-2)


@dataclass(frozen=True)
class Members:
    """The mean of several networks with a hidden layer, as one with all their units.

    Attributes:
        head: without couplings, for raw features.
        unseen: log-odds of each image from the member that did not see it, float32 (N, L).
    """

    head: LabelCrf
    unseen: NDArray[np.float32]

    @torch.no_grad()
    def log_odds(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of images that none has seen: the mean, (N, D) -> (N, L)."""
        unary: NDArray[np.float32] = self.head(torch.from_numpy(features)).unary.numpy()
        return unary

    @torch.no_grad()
    def beneath(self, model: LabelCrf) -> LabelCrf:
        """A model of log-odds as one of features, which have these heads in between."""
        assert self.head.hidden is not None
        assert model.hidden is None
        result = LabelCrf(
            self.head.hidden.in_features,
            model.num_labels,
            edges=model.edges,
            hidden=self.head.hidden.out_features,
            implications=model.implications,
        )
        assert result.hidden is not None
        weight, mean = model.output.weight, self.head.output
        result.hidden.load_state_dict(self.head.hidden.state_dict())
        result.output.weight.copy_(weight @ mean.weight)
        result.output.bias.copy_(weight @ mean.bias + model.output.bias)
        result.pairwise.copy_(model.pairwise)
        return result


def fit_members(examples: Examples, plan: Plan, stages: Stages, name: str, log: Log) -> Members:
    """Learn as many members as there are parts, each from all parts but its own.

    Args:
        name: of the images, for stages and messages.

    Raises:
        SettingsError: fewer images than members.
        RunError: a loss or a gradient is not finite.

    Cost: O(epochs members N D hidden). Deterministic given the seed.
    """
    settings = plan.settings
    examples = Examples(np.asarray(examples.features), examples.targets)
    num_features, num_labels = examples.features.shape[1], examples.targets.shape[1]
    count, hidden = settings.members, settings.hidden_units
    if len(examples.features) < count:
        raise SettingsError(
            f"{count} members need as many images, and there are {len(examples.features)}; lower "
            "--set members, or leave out dropout"
        )
    part = np.random.default_rng(settings.seed).permutation(len(examples.features)) % count
    whole = LabelCrf(num_features, num_labels, edges=no_edges(), hidden=count * hidden)
    assert whole.hidden is not None
    unseen = np.zeros(examples.targets.shape, np.float32)
    for member in range(count):
        inside = part != member
        seen = Examples(examples.features[inside], examples.targets[inside])
        one = LabelCrf(num_features, num_labels, edges=no_edges(), hidden=hidden)
        title = f"member {member + 1} of {count} on {name}"
        compute = partial(_learn, seen, plan, settings.seed + member, title, log)
        one.load_state_dict(stages.run(title, compute)["model"])
        with torch.no_grad():
            rows = torch.from_numpy(examples.features[~inside])
            unseen[~inside] = one(rows).unary.numpy()
            units = slice(member * hidden, (member + 1) * hidden)
            assert one.hidden is not None
            whole.hidden.weight[units] = one.hidden.weight
            whole.hidden.bias[units] = one.hidden.bias
            whole.output.weight[:, units] = one.output.weight / count
            whole.output.bias.add_(one.output.bias, alpha=1 / count)
    return Members(whole, unseen)


def make_trainer(
    train: Examples,
    validation: Examples,
    plan: Plan,
    stages: Stages,
    log: Log,
    environment: Environment = Environment(),
) -> tuple[HeadTrainer, Callable[[Fitted], Fitted]]:
    """The trainer of both models, and what makes of its fits models of raw features.

    Without dropout they are that already. With dropout, members are learned first, and the
    trainer's features are their log-odds. Every process learns all members, on all features in
    memory; the fits on top are shared.
    """
    if not plan.settings.dropout:
        return HeadTrainer(train, validation, plan, stages, log, environment), lambda fitted: fitted
    everything = train + validation
    on_train = fit_members(train, plan, stages, "train", log)
    on_all = fit_members(everything, plan, stages, "all", log)
    on_log_odds = plan.settings.model_copy(update={"hidden_units": 0, "penalties": _PENALTIES})
    trainer = HeadTrainer(
        Examples(on_train.unseen, train.targets),
        Examples(on_train.log_odds(np.asarray(validation.features)), validation.targets),
        replace(plan, settings=on_log_odds),
        stages,
        log,
        environment,
        everything=Examples(on_all.unseen, everything.targets),
    )

    def whole(fitted: Fitted) -> Fitted:
        return replace(
            fitted,
            model=on_all.beneath(fitted.model),
            on_train=on_train.beneath(fitted.on_train),
        )

    return trainer, whole


def _learn(examples: Examples, plan: Plan, seed: int, title: str, log: Log) -> Result:
    """One network, by AdamW on standardised features with dropout of these and of hidden units."""
    settings, raw = plan.settings, torch.from_numpy(examples.features)
    mean, spread = raw.mean(0), raw.std(0, correction=0)
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    rows, known = (raw - mean) / spread, torch.from_numpy(examples.targets.astype(np.int64))
    loss_of = make_minimiser(plan, ObjectiveName.INDEPENDENT).loss
    model = LabelCrf(
        raw.shape[1], known.shape[1], edges=no_edges(), hidden=settings.hidden_units, seed=seed
    )
    assert model.hidden is not None
    left_out = nn.Dropout(settings.dropout)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    batches = max(1, len(rows) // settings.batch_size)
    steps = settings.epochs * batches
    schedule = one_cycle(optimiser, settings.learning_rate, steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for epoch in range(settings.epochs):
            total = 0.0
            for batch in torch.randperm(len(rows)).tensor_split(batches):
                inner = left_out(model.hidden(left_out(rows[batch])).relu())
                unary = model.output(inner)
                if not bool(torch.isfinite(unary).all()):
                    raise RunError(f"{title}: diverged; lower --set learning_rate")
                potentials = Potentials(unary, model.edges, model.pairwise)
                loss = loss_of(potentials, known[batch])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                slopes = [one.grad for one in model.parameters() if one.grad is not None]
                if not bool(torch.isfinite(loss + nn.utils.get_total_norm(slopes))):
                    raise RunError(f"{title}: diverged; lower --set learning_rate")
                optimiser.step()
                schedule.step()
                total += float(loss.detach()) * len(batch) / len(rows)
            log(f"{title}: epoch {epoch + 1} of {settings.epochs}, loss {total:.4f}")
    with torch.no_grad():
        model.hidden.weight.div_(spread)
        model.hidden.bias.sub_(model.hidden.weight @ mean)
    return {"model": model.state_dict()}
