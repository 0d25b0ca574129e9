"""Run by torchrun in `test_processes.py`: the losses of first steps, into a JSON file."""

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from mlcrf.backbones.registry import find_spec, make_backbone
from mlcrf.choices import EngineName, Finetune, ObjectiveName, Precision
from mlcrf.config import TrainSettings
from mlcrf.crf import full_edges
from mlcrf.data.manifest import Split
from mlcrf.data.readers.table import read_table
from mlcrf.errors import DataError
from mlcrf.images import as_image
from mlcrf.labels import LabelSpace
from mlcrf.model import LabelCrf
from mlcrf.processes import Processes, joined
from mlcrf.rules import Rules
from mlcrf.training.extraction import Environment, extract
from mlcrf.training.features import FeatureSpace
from mlcrf.training.finetune import finetune
from mlcrf.training.last_stage import finetune_last
from mlcrf.training.plan import make_minimiser, make_plan
from mlcrf.training.preconditioner import Penalty
from mlcrf.training.progress import FitProgress
from mlcrf.training.stages import Stages

OBJECTIVES = (
    ObjectiveName.EXACT_LIKELIHOOD,
    ObjectiveName.PSEUDO_LIKELIHOOD,
    ObjectiveName.CONTRASTIVE_DIVERGENCE,
)


def frozen(objective: ObjectiveName, processes: Processes) -> list[float]:
    """The loss at each gradient of a fit on 2,100 images, some of whose labels are unknown."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2100, 16)).astype(np.float32)
    targets = (features[:, :8] + 0.5 * features[:, 1:9] > rng.normal(size=(2100, 8))).astype(
        np.int8
    )
    targets[rng.random(targets.shape) < 0.1] = -1
    space = FeatureSpace(features, targets, processes=processes)
    settings = TrainSettings(exact_tolerance=1e-12, tolerance=1e-12, steps=30)
    losses: list[float] = []

    def note(event: FitProgress) -> None:
        losses.append(float(f"{event.loss:.8g}"))

    labels = LabelSpace(tuple("abcdefgh"))
    plan = make_plan(settings, labels, full_edges(8), Rules())
    make_minimiser(plan, objective).minimise(
        space,
        LabelCrf(16, 8, edges=plan.edges),
        Penalty(0.01, 0.01),
        held_out=lambda model: 0.0,
        frozen=False,
        progress=note,
    )
    return losses[:30]


def trained(
    objective: ObjectiveName,
    table: Path,
    out: Path,
    processes: Processes,
    *,
    epochs: int = 8,
    accumulate: int = 1,
) -> list[float]:
    """Training and validation losses of epochs of two batches, the second of one picture."""
    manifest = read_table(table)
    parts = manifest.part(Split.TRAIN), manifest.part(Split.VALIDATION)
    settings = TrainSettings(
        backbone="tiny",
        finetune=Finetune.ALL,
        precision=Precision.FLOAT64,
        objective=objective,
        batch_size=len(parts[0]) - 1,
        gradient_accumulation=accumulate,
        epochs=epochs,
    )
    backbone = make_backbone(find_spec("tiny"), seed=0)
    edges, rules = full_edges(len(manifest.labels)), manifest.rules
    result = finetune(
        backbone,
        *parts,
        make_plan(settings, manifest.labels, edges, rules),
        Stages(out / f"{objective.value}-{accumulate}.pt", "", processes),
        lambda event: None,
        Environment(processes=processes),
    )
    return [loss for pair in result["losses"] for loss in pair]


def last_stage(table: Path, processes: Processes) -> dict[str, Any]:
    """Losses of the last stage's training, and what every process has in the end.

    Each process draws its own batches, so that they differ by more than rounding before.
    """
    manifest = read_table(table)
    settings = TrainSettings(
        backbone="lite0@64",
        finetune=Finetune.LAST,
        batch_size=16,
        epochs=2,
        penalties=(0.1,),
        seed=processes.rank,
    )
    result = finetune_last(
        make_backbone(find_spec("lite0@64")),
        manifest.part(Split.TRAIN),
        manifest.part(Split.VALIDATION),
        make_plan(settings, manifest.labels, full_edges(len(manifest.labels)), manifest.rules),
        Stages(None, "", processes),
        lambda event: None,
        environment=Environment(engine=EngineName.TORCH, processes=processes),
    )
    digest = hashlib.sha256(save(result["last"])).hexdigest()
    return {
        "losses": [loss for pair in result["losses"] for loss in pair],
        "digests": processes.gather_texts([digest]),
        "gains": processes.gather_texts([repr(result["gains"])]),
    }


def extracted(table: Path, out: Path, processes: Processes) -> dict[str, Any]:
    """Features in memory and mapped, and what is said of two pictures that cannot be read."""
    paths = read_table(table).images[:21]
    backbone = make_backbone(find_spec("tiny"), seed=0)
    in_memory = Environment(engine=EngineName.TORCH, processes=processes)
    in_files = replace(in_memory, cache_dir=out / "cache", in_memory=0)
    held = extract(backbone, paths, in_memory)
    mapped = extract(backbone, paths, in_files)
    one, other = (as_image(out / f"none-{number}.jpg") for number in (1, 2))
    broken = [*paths[:5], one, *paths[5:], other]
    try:
        extract(backbone, broken, in_memory)
        said = ""
    except DataError as error:
        said = str(error)
    return {"held": np.asarray(held).tolist(), "mapped": np.asarray(mapped).tolist(), "said": said}


def main(table: Path, out: Path) -> None:
    """Everything, once."""
    with joined(torch.device("cpu")) as (processes, _):
        out.mkdir(exist_ok=True)
        processes.barrier()
        record: dict[str, Any] = {
            "size": processes.size,
            "frozen": {one.value: frozen(one, processes) for one in OBJECTIVES},
            "trained": {one.value: trained(one, table, out, processes) for one in OBJECTIVES},
            "accumulated": trained(OBJECTIVES[1], table, out, processes, epochs=5, accumulate=3),
            "last": last_stage(table, processes),
            "extracted": extracted(table, out, processes),
        }
        if processes.is_first:
            (out / "record.json").write_text(json.dumps(record))
        processes.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
