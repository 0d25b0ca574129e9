"""Heads with dropout: the mean of several small networks.

The images are divided into one fold per member, and each member learns from all folds except its
own. So every image has out-of-fold log-odds, from a member that did not see it; couplings learned
on these log-odds expect the errors of new images. A new image gets the mean of all members.
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
from mlcrf.training.candidates import Fitted
from mlcrf.training.examples import Examples
from mlcrf.training.extraction import Environment
from mlcrf.training.heads import HeadTrainer
from mlcrf.training.plan import Plan, make_minimiser
from mlcrf.training.progress import EpochFinished, Log, TaskProgress
from mlcrf.training.stages import Result, Stages
from mlcrf.training.stepping import one_cycle

# for log-odds; the penalties of the settings are for hundreds of features
_PENALTIES = (1e-4, 1e-3, 1e-2)


@dataclass(frozen=True)
class Members:
    """The mean of several networks with a hidden layer, as one network with all units.

    Attributes:
        head: model of raw features, without couplings.
        out_of_fold_logits: log-odds of each image by the member that did not see it (N, L).
    """

    head: LabelCrf
    out_of_fold_logits: NDArray[np.float32]

    @torch.no_grad()
    def log_odds(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the mean log-odds of new images, (N, D) -> (N, L)."""
        unary: NDArray[np.float32] = self.head(torch.from_numpy(features)).unary.numpy()
        return unary

    @torch.no_grad()
    def beneath(self, model: LabelCrf) -> LabelCrf:
        """Return a model of log-odds as a model of features, by composing it with the members."""
        if model.hidden is not None:
            raise ValueError("expected a model of log-odds, got one with a hidden layer")
        assert self.head.hidden is not None
        result = LabelCrf(
            self.head.hidden.in_features,
            model.num_labels,
            edges=model.edges,
            hidden=self.head.hidden.out_features,
            rules=model.rules,
        )
        assert result.hidden is not None
        weight, mean = model.output.weight, self.head.output
        result.hidden.load_state_dict(self.head.hidden.state_dict())
        result.output.weight.copy_(weight @ mean.weight)
        result.output.bias.copy_(weight @ mean.bias + model.output.bias)
        result.pairwise.copy_(model.pairwise)
        return result


def fit_members(examples: Examples, plan: Plan, stages: Stages, name: str, log: Log) -> Members:
    """Fit the members, each on all folds except its own.

    Args:
        name: name of the images in stages and messages.

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
    out_of_fold_logits = np.zeros(examples.targets.shape, np.float32)
    for member in range(count):
        inside = part != member
        seen = Examples(examples.features[inside], examples.targets[inside])
        one = LabelCrf(num_features, num_labels, edges=no_edges(), hidden=hidden)
        title = f"member {member + 1} of {count} on {name}"
        compute = partial(_learn, seen, plan, settings.seed + member, title, log)
        one.load_state_dict(stages.run(title, compute)["model"])
        with torch.no_grad():
            rows = torch.from_numpy(examples.features[~inside])
            out_of_fold_logits[~inside] = one(rows).unary.numpy()
            units = slice(member * hidden, (member + 1) * hidden)
            assert one.hidden is not None
            whole.hidden.weight[units] = one.hidden.weight
            whole.hidden.bias[units] = one.hidden.bias
            whole.output.weight[:, units] = one.output.weight / count
            whole.output.bias.add_(one.output.bias, alpha=1 / count)
    return Members(whole, out_of_fold_logits)


def make_trainer(
    train: Examples,
    validation: Examples,
    plan: Plan,
    stages: Stages,
    log: Log,
    environment: Environment = Environment(),
) -> tuple[HeadTrainer, Callable[[Fitted], Fitted]]:
    """Return the trainer of both models, and a map from its fits to models of raw features.

    With dropout, members are fitted first, and the trainer's features are their log-odds; without,
    the map is the identity. Every process fits all members, on all features in memory; the fits on
    top are shared.
    """
    if not plan.settings.dropout:
        return HeadTrainer(train, validation, plan, stages, log, environment), lambda fitted: fitted
    everything = train + validation
    on_train = fit_members(train, plan, stages, "train", log)
    is_split = len(validation.targets) > 0
    on_all = fit_members(everything, plan, stages, "all", log) if is_split else on_train
    on_log_odds = plan.settings.model_copy(update={"hidden_units": 0, "penalties": _PENALTIES})
    trainer = HeadTrainer(
        Examples(on_train.out_of_fold_logits, train.targets),
        Examples(on_train.log_odds(np.asarray(validation.features)), validation.targets),
        replace(plan, settings=on_log_odds),
        stages,
        log,
        environment,
        everything=Examples(on_all.out_of_fold_logits, everything.targets),
    )

    def whole(fitted: Fitted) -> Fitted:
        return replace(
            fitted, model=on_all.beneath(fitted.model), on_train=on_train.beneath(fitted.on_train)
        )

    return trainer, whole


def _learn(examples: Examples, plan: Plan, seed: int, title: str, log: Log) -> Result:
    """Fit one network by AdamW, with dropout of standardised features and of hidden units."""
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
    done, steps = 0, settings.epochs * batches
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
                gradients = [one.grad for one in model.parameters() if one.grad is not None]
                if not bool(torch.isfinite(loss + nn.utils.get_total_norm(gradients))):
                    raise RunError(f"{title}: diverged; lower --set learning_rate")
                optimiser.step()
                schedule.step()
                total += float(loss.detach()) * len(batch) / len(rows)
                done += 1
                log(TaskProgress(title, done / steps))
            log(EpochFinished(title, epoch + 1, settings.epochs, total))
    with torch.no_grad():
        model.hidden.weight.div_(spread)
        model.hidden.bias.sub_(model.hidden.weight @ mean)
    return {"model": model.state_dict()}
