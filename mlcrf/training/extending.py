"""Runs made by teaching: labels added to a run and answers that correct it, without training anew.

before = marginal_log_odds(base, features)
taught = Teacher(features, base.crf, base.independent, before).learn(answers)
data = TeachingData("answers", images, features, answers, names, before)
report = save_taught(make_taught_run(taught, data, base, base.backbone_spec), out)

`save_taught` is in `mlcrf.training.taught_saving`.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.backbones.registry import BackboneSpec
from mlcrf.checkpoint import Provenance, Run
from mlcrf.choices import Decision, Finetune, InferenceName, ObjectiveName, Schedule, Structure
from mlcrf.config import TrainSettings
from mlcrf.crf import UNKNOWN, Potentials
from mlcrf.decoding import Decoder
from mlcrf.errors import RunError
from mlcrf.images import Image
from mlcrf.labels import LabelSpace
from mlcrf.metrics import Ranking
from mlcrf.model import LabelCrf
from mlcrf.processes import ALONE
from mlcrf.training.finite import require_finite
from mlcrf.training.teaching import Taught

_AT_ONCE = 4096  # images per chunk of marginals
_MOST_MEASURED = 1000  # images on which the change of the base run's labels is measured
_MOST_TUNED = 1000  # images that thresholds are tuned on
_FEWEST = 5  # answers of yes, and of no, that a label's threshold is tuned on
_TYPICAL_K = 5  # labels per image that rarity is tuned for
_SURE = 1e-6  # smallest probability of float32 marginals whose log-odds are trusted
_MOST_ENUMERATED = 26  # labels up to which enumeration is faster than Gibbs sampling, and exact
_MOST_NAMED = 10  # labels in a note
_ENUMERATING = (InferenceName.EXACT, InferenceName.JUNCTION_TREE)


@dataclass(frozen=True)
class TeachingData:
    """Images of an archive, and what is known about them.

    Attributes:
        name: name of the answers in results, such as that of their table.
        images: the images (N,), answered or not.
        features: of the backbone (N, D).
        answers: 1, 0 or -1 for unknown, int64 (N, L).
        names: names of the labels (L,), those of the base run first.
        before: see `marginal_log_odds`; None without a base run.
        notes: repairs and omissions in the data.
    """

    name: str
    images: Sequence[Image]
    features: NDArray[np.float32]
    answers: Tensor
    names: Sequence[str]
    before: Tensor | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelFigures:
    """Figures of one answered label, each answer judged by a model that was fitted without it.

    Attributes:
        is_new: whether the base run does not know the label.
        positives: number of answers that the label is present.
        negatives: number of answers that it is absent.
        loss: mean negative log-probability of an answer, in nats.
        base_loss: the same by the base run; by the share of positives for a new label.
        average_precision: of the ranking of the answered images; None if all answers are the same.
        base_rate: share of positives, the average precision of a random ranking.
    """

    is_new: bool
    positives: int
    negatives: int
    loss: float
    base_loss: float
    average_precision: float | None
    base_rate: float


@dataclass(frozen=True)
class Change:
    """Change of the base run's labels where nothing is known about an image.

    Attributes:
        images: number of images that it was measured on, drawn from the archive.
        mean: mean absolute difference of a marginal before and after.
        largest: largest absolute difference of a marginal before and after.
    """

    images: int
    mean: float
    largest: float


@dataclass(frozen=True)
class TaughtReport:
    """A run made by teaching, and what was learned.

    Attributes:
        data: what it was taught.
        base: the base run; None without one.
        labels: figures of the answered labels, by name.
        change: of the base run's labels; None without a base run.
        is_corrected: whether answers moved labels of the base run.
    """

    run: Run
    data: TeachingData
    base: Run | None
    labels: dict[str, LabelFigures]
    change: Change | None
    is_corrected: bool = False

    @property
    def images(self) -> int:
        """The number of images with an answer."""
        return int((self.data.answers != UNKNOWN).any(1).sum())

    @property
    def notes(self) -> tuple[str, ...]:
        """Repairs and omissions in the data, and the known labels that they correct."""
        known = [name for name, one in self.labels.items() if not one.is_new]
        if self.base is None or not known:
            return self.data.notes
        names = ", ".join(known[:_MOST_NAMED]) + (" and others" if known[_MOST_NAMED:] else "")
        does = "correct it" if self.is_corrected else "do not show that it is wrong"
        told = f"answers about labels that {self.base.path.name} knows {does}: {names}"
        return (*self.data.notes, told)

    @property
    def losses(self) -> tuple[float, float] | None:
        """Left-out loss of an answer about the base run's labels: by it, and by the new run.

        None if there is no such answer.
        """
        old = [one for one in self.labels.values() if not one.is_new]
        weights = [one.positives + one.negatives for one in old]
        if not old:
            return None
        before = np.average([one.base_loss for one in old], weights=weights)
        return float(before), float(np.average([one.loss for one in old], weights=weights))

    def record(self) -> dict[str, object]:
        """Return what metrics.json keeps."""
        return {
            "base": None if self.base is None else str(self.base.path),
            "images": {"answered": self.images, "archive": len(self.data.images)},
            "labels": {name: asdict(one) for name, one in self.labels.items()},
            "change": None if self.change is None else asdict(self.change),
        }


@torch.no_grad()
def marginal_log_odds(run: Run, features: NDArray[np.float32]) -> Tensor:
    """Return the log-odds of a run's marginals where nothing is known, float64 (N, L)."""
    blocks = ALONE.blocks(len(features), _AT_ONCE)
    parts = [_marginals(run, run.crf, run.crf(torch.from_numpy(features[one]))) for one in blocks]
    return torch.cat(parts).logit(_SURE)


@torch.no_grad()
def make_taught_run(
    taught: Taught,
    data: TeachingData,
    base: Run | None,
    spec: BackboneSpec,
    made_by: Provenance = Provenance(),
) -> TaughtReport:
    """Return a run of what was taught, not yet saved, and its figures.

    Settings, rules and a trained backbone are those of the base run, without one the
    defaults. Inference is the base run's, except that exact inference becomes `auto`, and that up
    to 26 labels may be enumerated, so that a run of 24 stays exact. Thresholds are tuned on the
    answers, each judged by unaries that were fitted without it; the couplings have seen them. A
    label with too few answers keeps the base run's threshold.

    Args:
        base: the run that the teacher started from.
        spec: the backbone of the features.

    Raises:
        RunError: weights are not finite.
    """
    columns = taught.columns.tolist()
    labels = LabelSpace(tuple(data.names[column] for column in columns))
    answers = data.answers[:, taught.columns]
    models = {"crf": taught.crf, "independent": taught.independent}
    require_finite("teaching", {name: model.state_dict() for name, model in models.items()})
    run = Run(
        path=Path(),
        labels=labels,
        settings=_settings(base, spec, taught.crf),
        backbone_spec=spec,
        data=data.name if base is None else f"{base.data} and {data.name}",
        crf=taught.crf,
        independent=taught.independent,
        backbone_weights=None if base is None else base.backbone_weights,
        made_by=made_by if base is None else replace(made_by, auto=base.made_by.auto),
    )
    if base is None:
        figures = _figures(labels, taught.log_odds, answers, 0)
        decoders = _tune_decoders(run, taught, data, answers, None)
        return TaughtReport(replace(run, decoders=decoders), data, None, figures, None)
    figures = _figures(labels, taught.log_odds, answers, len(base.labels), data.before)
    run = replace(run, decoders=_tune_decoders(run, taught, data, answers, base))
    is_corrected = bool(taught.moved[: len(base.labels)].any())
    return TaughtReport(run, data, base, figures, _measure(run, data), is_corrected)


@torch.no_grad()
def leave_out(report: TaughtReport, names: Collection[str]) -> TaughtReport:
    """Return a run without some of its labels; their couplings act by their mean on the others.

    Raises:
        RunError: no label is left.
    """
    run = report.run
    if not set(names) & set(run.labels):
        return report
    kept = [at for at, name in enumerate(run.labels) if name not in names]
    if not kept:
        raise RunError("every label that was learned is left out")
    features = torch.from_numpy(report.data.features[:_MOST_MEASURED])
    means = _marginals(run, run.crf, run.crf(features)).mean(0)
    run = replace(
        run,
        labels=LabelSpace(tuple(run.labels.names[at] for at in kept)),
        crf=_without(run.crf, kept, means),
        independent=_without(run.independent, kept, means),
        decoders={
            model: tuple(_decoder_of_some(one, kept) for one in decoders)
            for model, decoders in run.decoders.items()
        },
    )
    figures = {name: one for name, one in report.labels.items() if name not in names}
    return replace(report, run=run, labels=figures)


def _without(model: LabelCrf, kept: list[int], means: Tensor) -> LabelCrf:
    """Return a model with some of its labels only.

    Args:
        means: mean marginal of each label (L,).
    """
    place = torch.full((model.num_labels,), -1)
    place[kept] = torch.arange(len(kept))
    edges = place[model.edges]
    inner = (edges >= 0).all(1)
    rules = model.rules.without_others(kept)
    result = LabelCrf(model.output.in_features, len(kept), edges=edges[inner], rules=rules)
    result.output.weight.copy_(model.output.weight[kept])
    biases = model.output.bias.double()
    for label, other in (model.edges.T, model.edges.flip(1).T):
        acts = ~inner & (place[other] < 0)
        by_mean = model.pairwise.double() * means[other]
        biases = biases.index_add(0, label[acts], by_mean[acts])
    result.output.bias.copy_(biases[kept])
    result.pairwise.copy_(model.pairwise[inner])
    return result.eval()


def _decoder_of_some(decoder: Decoder, kept: list[int]) -> Decoder:
    changes: dict[str, object] = {}
    if isinstance(decoder.threshold, tuple):
        changes["threshold"] = tuple(decoder.threshold[at] for at in kept)
    if decoder.frequencies is not None:
        changes["frequencies"] = tuple(decoder.frequencies[at] for at in kept)
    if decoder.k is not None:
        changes["k"] = min(decoder.k, len(kept))
    return replace(decoder, **changes)  # type: ignore[arg-type]  # names of its fields


def _settings(base: Run | None, spec: BackboneSpec, crf: LabelCrf) -> TrainSettings:
    first = TrainSettings(backbone=spec.name, views=spec.views, finetune=Finetune.NONE)
    settings = first if base is None else base.settings
    changes: dict[str, object] = {}
    if settings.inference in _ENUMERATING:
        changes["inference"] = InferenceName.AUTO
    if settings.max_exact_labels < crf.num_labels <= _MOST_ENUMERATED:
        changes["max_exact_labels"] = crf.num_labels
    if base is None or (settings.structure is Structure.INDEPENDENT and len(crf.edges)):
        changes |= {
            "structure": Structure.AUTO,
            "objective": ObjectiveName.PSEUDO_LIKELIHOOD,
            "schedule": Schedule.STACKED,
        }
    return settings.model_copy(update=changes)


def _marginals(run: Run, model: LabelCrf, potentials: Potentials) -> Tensor:
    """Return P(y_i = 1) where nothing is known, float64 (N, L)."""
    name = run.settings.inference if model is run.crf else InferenceName.AUTO
    return model.make_inference(name, run.settings)(potentials).marginals.double()


def _figures(
    labels: LabelSpace,
    log_odds: Tensor,
    answers: Tensor,
    num_known: int,
    before: Tensor | None = None,
) -> dict[str, LabelFigures]:
    """Return the figures of the answered labels.

    Args:
        log_odds: each answer's by a fit without it (N, K).
        num_known: number of labels that the base run knows.
    """
    figures = {}
    for column, name in enumerate(labels):
        rows = (answers[:, column] != UNKNOWN).nonzero().squeeze(1)
        if not len(rows):
            continue
        targets = answers[rows, column].double()
        positives, negatives = int(targets.sum()), int((1 - targets).sum())
        base_rate = positives / len(rows)
        scores = log_odds[rows, column].double()
        usual = torch.full_like(scores, base_rate).logit(_SURE)
        if column < num_known:
            assert before is not None
            usual = before[rows, column]
        ranking = Ranking(scores.numpy(), targets.numpy().astype(np.int8))
        precision = ranking.average_precision(np.ones(len(rows)))
        figures[name] = LabelFigures(
            is_new=column >= num_known,
            positives=positives,
            negatives=negatives,
            loss=float(F.binary_cross_entropy_with_logits(scores, targets)),
            base_loss=float(F.binary_cross_entropy_with_logits(usual, targets)),
            average_precision=precision if positives and negatives else None,
            base_rate=base_rate,
        )
    return figures


def _measure(run: Run, data: TeachingData) -> Change:
    """Measure the change of the base run's labels on images drawn from the archive."""
    assert data.before is not None
    before = data.before.sigmoid()
    rows = np.random.default_rng(0).permutation(len(before))[:_MOST_MEASURED]
    features = torch.from_numpy(data.features[rows])
    after = _marginals(run, run.crf, run.crf(features))[:, : before.shape[1]]
    change = (after - before[rows]).abs()
    return Change(len(rows), float(change.mean()), float(change.max()))


def _tune_decoders(
    run: Run, taught: Taught, data: TeachingData, answers: Tensor, base: Run | None
) -> dict[str, tuple[Decoder, ...]]:
    """Return decision rules of both models, with what can be tuned."""
    answered = (answers != UNKNOWN).any(1).nonzero().squeeze(1)
    order = np.random.default_rng(0).permutation(len(answered))
    rows = answered[order[:_MOST_TUNED]]
    features, targets = torch.from_numpy(data.features[rows.numpy()]), answers[rows]
    by_all = taught.independent.unary(features).double()
    if base is not None:
        assert data.before is not None
        difference = data.before[rows] - base.independent.unary(features)
        by_all[:, : difference.shape[1]] += difference
    left_out = taught.log_odds[rows] - by_all  # what an answer itself adds to its log-odds
    left_out[targets == UNKNOWN] = 0
    frequencies = taught.log_odds.sigmoid().mean(0).clamp(min=_SURE)
    decoders = {}
    for name, model in (("crf", run.crf), ("independent", run.independent)):
        potentials = model(features)
        potentials = replace(potentials, unary=potentials.unary + left_out.float())
        marginals = _marginals(run, model, potentials)
        before = {} if base is None else {one.rule: one for one in base.decoders.get(name, ())}
        enough = ((targets == 1).sum(0) >= _FEWEST) & ((targets == 0).sum(0) >= _FEWEST)
        enough &= taught.moved & taught.by_chance
        decoders[name] = tuple(_tuned(marginals, targets, frequencies, before, enough))
    return decoders


def _tuned(
    marginals: Tensor,
    targets: Tensor,
    frequencies: Tensor,
    before: dict[Decision, Decoder],
    enough: Tensor,
) -> Iterator[Decoder]:
    """Yield what can be tuned on the answers, or is kept of the base run's decoders.

    Args:
        frequencies: share of the archive's images with each label (L,).
        enough: whether a label's threshold can be tuned on its answers (L,).
    """
    count = targets.shape[1]
    one = before.get(Decision.TUNED_THRESHOLD)
    if one is None and enough.all():
        one = Decoder(Decision.TUNED_THRESHOLD).tune(marginals, targets)
    if one is not None:
        yield one

    each = Decoder(Decision.LABEL_THRESHOLDS).tune(marginals, targets)
    kept = before.get(Decision.LABEL_THRESHOLDS)
    assert isinstance(each.threshold, tuple)
    known = kept.threshold if kept is not None and isinstance(kept.threshold, tuple) else ()
    if enough[len(known) :].all():
        pairs = zip(enough.tolist(), each.threshold, known, strict=False)
        thresholds = [tuned if is_tuned else old for is_tuned, tuned, old in pairs]
        yield replace(each, threshold=(*thresholds, *each.threshold[len(known) :]))

    ranked = before.get(Decision.TOP_K)
    if ranked is not None and ranked.frequencies is not None:
        old = ranked.frequencies
        yield replace(ranked, frequencies=(*old, *frequencies[len(old) :].tolist()))
    elif enough.all():
        k, shares = min(_TYPICAL_K, (count + 1) // 2), tuple(frequencies.tolist())
        ranked = Decoder(Decision.TOP_K, k=k, rarity=None, frequencies=shares)
        yield ranked.tune(marginals, targets)
