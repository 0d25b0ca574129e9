"""One training run, from a data set to a run directory; read it from top to bottom."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from time import perf_counter

import torch
from safetensors.torch import save
from torch import Tensor

from mlcrf import atomic
from mlcrf.backbones.registry import Source, find_spec, make_backbone
from mlcrf.checkpoint import CONFIG, SPLITS, STATE, Run, save_run
from mlcrf.choices import Finetune, InferenceName, Structure
from mlcrf.config import TrainSettings
from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.readers.table import save_manifest
from mlcrf.data.splits import split_manifest
from mlcrf.errors import DataError, RunError, SettingsError
from mlcrf.inference import SceneSum, count_states
from mlcrf.model import LabelCrf
from mlcrf.processes import Processes
from mlcrf.training.album_transitions import learn_transitions, training_albums
from mlcrf.training.choosing import (
    check_settings,
    exact_method,
    make_model,
    make_recipe,
    resolve_inference,
    resolve_objective,
)
from mlcrf.training.extraction import Environment, extract
from mlcrf.training.finetune import finetune
from mlcrf.training.finite import require_finite
from mlcrf.training.heads import Examples, Fitted
from mlcrf.training.members import make_trainer
from mlcrf.training.stages import Result, Stages
from mlcrf.training.structure import choose_edges
from mlcrf.training.threshold_tuning import tune_decoders


@dataclass(frozen=True)
class TrainReport:
    """What a training run did.

    Attributes:
        run: the finished run.
        images: how many images each split has.
        fits: for `crf` and `independent` penalty, validation loss and how the last fit went.
        seconds: wall time of this call, by part.
        notes: what was repaired or left out in the data.
    """

    run: Run
    images: dict[str, int]
    fits: dict[str, dict[str, float]]
    seconds: dict[str, float]
    notes: tuple[str, ...]


def train(
    manifest: Manifest,
    out: Path,
    settings: TrainSettings,
    environment: Environment = Environment(),
    *,
    resume: bool = False,
    overwrite: bool = False,
    log: Callable[[str], None] = lambda message: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TrainReport:
    """Learn labels from images and write a run directory.

    Features of a frozen (or first trained) network; penalties chosen on the validation images;
    the independent baseline and the CRF refitted on training and validation images together. Test
    images are never read.

    Args:
        out: the run directory; must not exist unless `resume` or `overwrite`.
        resume: go on where a run was stopped; it begins if nothing was kept yet.
        progress: called with how many pictures' features are there, and of how many.

    Raises:
        DataError: pictures that cannot be read (all of them named), or no labels to learn from.
        RunError: the directory is in the way, or cannot be resumed.
        SettingsError: settings that contradict each other.
    """
    clock, processes = _Clock(), environment.processes
    spec = find_spec(settings.backbone)
    if spec.source is Source.SCRATCH and settings.finetune is Finetune.NONE:
        raise SettingsError(f"backbone {spec.name} has no published weights; add --finetune all")
    if "+" in spec.name and settings.finetune is Finetune.ALL:
        raise SettingsError(f"--finetune all trains one network; backbone {spec.name} has several")
    manifest = split_manifest(manifest, seed=settings.seed)
    train_part, validation_part = manifest.part(Split.TRAIN), manifest.part(Split.VALIDATION)
    _check_targets(train_part)
    edges = choose_edges(settings, train_part)
    rules = torch.from_numpy(manifest.rules)
    exact = exact_method(settings, len(manifest.labels), edges, rules)
    objective = resolve_objective(settings, exact)
    check_settings(settings, objective, count_states(len(manifest.labels), rules), exact)
    gap = timedelta(minutes=settings.album_gap_minutes)
    albums = training_albums(train_part, validation_part, gap) if settings.albums else None
    backbone = make_backbone(spec, seed=settings.seed)
    identity = _identity(manifest, settings, edges)
    stages = _begin(out, identity, manifest, processes, resume=resume, overwrite=overwrite)

    trained: Result | None = None
    if settings.finetune is Finetune.ALL:
        loss = make_recipe(objective, settings, exact).loss
        trained = stages.run(
            "network",
            lambda: finetune(
                backbone,
                train_part,
                validation_part,
                loss,
                settings,
                make_model(settings, backbone.num_features, edges, rules, len(manifest.labels)),
                device=environment.device,
                stages=stages,
                log=log,
                processes=processes,
            ),
        )
        backbone.load_state_dict(trained["best"])
        clock.note("network")

    log(f"features of {len(train_part) + len(validation_part)} pictures")
    features = extract(
        backbone, train_part.images + validation_part.images, environment, progress=progress
    )
    examples = Examples(features[: len(train_part)], train_part.targets)
    held_out = Examples(features[len(train_part) :], validation_part.targets)
    clock.note("features")

    trainer, whole = make_trainer(
        examples,
        held_out,
        settings,
        edges,
        rules,
        stages,
        log,
        processes=processes,
        folder=environment.cache_dir,
    )
    independent = trainer.fit_independent()
    clock.note("independent")
    if settings.structure is not Structure.INDEPENDENT:
        crf = trainer.fit_crf(objective, independent)
        if albums is not None and isinstance(exact, SceneSum):
            crf = learn_transitions(crf, exact, (examples, held_out), albums, log=log)
    else:
        crf = replace(
            independent,
            model=_ruled(independent.model, rules),
            on_train=_ruled(independent.on_train, rules),
        )
    crf, independent = whole(crf), whole(independent)
    clock.note("crf")

    inference = resolve_inference(settings, objective)
    run = _checked(
        Run(
            path=out,
            labels=manifest.labels,
            settings=settings.model_copy(
                update={
                    "objective": objective,
                    "inference": inference,
                }
            ),
            backbone_spec=spec,
            data=manifest.name,
            crf=crf.model,
            independent=independent.model,
            backbone_weights=None if trained is None else trained["best"],
            decoders={
                "crf": tune_decoders(crf.on_train, held_out, settings, inference),
                "independent": tune_decoders(
                    independent.on_train, held_out, settings, InferenceName.AUTO
                ),
            },
        )
    )
    images = {split.value: (manifest.splits or ()).count(split) for split in Split}
    fits = {"crf": _summary(crf), "independent": _summary(independent)}
    report = TrainReport(run, images, fits, clock.seconds, manifest.notes)
    if processes.is_first:
        report = replace(report, run=save_run(run))
        _save_record(report, trained)
    return report


class _Clock:
    """Wall time by part."""

    def __init__(self) -> None:
        self._last = perf_counter()
        self.seconds: dict[str, float] = {}

    def note(self, part: str) -> None:
        now = perf_counter()
        self.seconds[part] = round(now - self._last, 2)
        self._last = now


def _check_targets(train: Manifest) -> None:
    known = train.targets >= 0
    if not known.any():
        raise DataError(f"{train.name}: every label of every training image is unknown; say 0 or 1")
    for column, name in enumerate(train.labels):
        if not known[:, column].any():
            raise DataError(
                f"{train.name}: label {name!r} is unknown in every training image; remove it"
            )


def _ruled(model: LabelCrf, implications: Tensor) -> LabelCrf:
    """The same without couplings, but with rules."""
    result = model.clone()
    result.implications = implications
    return result


def _prepare(out: Path, *, resume: bool, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: is a file; choose another --out")
    atomic.sweep(out)
    if resume and (out / STATE).exists():
        return
    if out.is_dir() and any(out.iterdir()):
        if resume:
            raise RunError(f"{out}: nothing to resume: it has no {STATE}")
        is_run = (out / STATE).exists() or (out / CONFIG).exists()
        if not overwrite or not is_run:
            ways = "--resume it, --overwrite it, or" if is_run else "it is no run, so"
            raise RunError(f"{out}: exists already; {ways} choose another --out")
        shutil.rmtree(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{out}: cannot be made: {error.strerror}") from error


def _begin(
    out: Path,
    identity: str,
    manifest: Manifest,
    processes: Processes,
    *,
    resume: bool,
    overwrite: bool,
) -> Stages:
    """What was finished so far, in every process; the first makes the folder."""
    if processes.is_first:
        _prepare(out, resume=resume, overwrite=overwrite)
    processes.wait()
    stages = Stages(out / STATE, identity, processes)
    if processes.is_first:
        save_manifest(out / SPLITS, manifest)
    return stages


def _identity(manifest: Manifest, settings: TrainSettings, edges: Tensor) -> str:
    """What must be the same for a run to be resumed."""
    digest = hashlib.sha256(manifest.targets.tobytes())
    digest.update(edges.numpy().tobytes())
    for path, split in zip(manifest.images, manifest.splits or (), strict=True):
        digest.update(f"{path.absolute()}\n{split}\n".encode("utf-8", "surrogateescape"))
    return json.dumps(
        {
            "settings": settings.model_dump(mode="json"),
            "labels": list(manifest.labels),
            "implications": list(manifest.implications),
            "data": digest.hexdigest(),
        },
        sort_keys=True,
    )


def _checked(run: Run) -> Run:
    """The run, whose weights are all finite."""
    models = {"crf": run.crf.state_dict(), "independent": run.independent.state_dict()}
    require_finite("training", models | {"backbone": run.backbone_weights or {}})
    return run


def _summary(fitted: Fitted) -> dict[str, float]:
    penalty = {f"penalty_{key}": value for key, value in asdict(fitted.penalty).items()}
    return penalty | {"validation_loss": fitted.score} | fitted.report


def _save_record(report: TrainReport, trained: Result | None) -> None:
    """What the run did, for people and programs: results.csv, metrics.json, last weights."""
    path = report.run.path
    rows = ["epoch,train_loss,validation_loss"]
    for epoch, (loss, checked) in enumerate(trained["losses"] if trained else [], start=1):
        rows.append(f"{epoch},{loss:.6f},{checked:.6f}")
    if trained is not None:
        atomic.write_text(path / "results.csv", "\n".join(rows) + "\n")
        atomic.write_bytes(path / "last.safetensors", save(trained["last"]))
    record = {"images": report.images, "fits": report.fits, "seconds": report.seconds}
    atomic.write_text(path / "metrics.json", json.dumps(record, indent=2) + "\n")
