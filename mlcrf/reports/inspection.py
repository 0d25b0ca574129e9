"""Summaries of runs, data sets, shipped models and this machine, as records and as text."""

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array, triu

from mlcrf.backbones.registry import available_offline
from mlcrf.checkpoint import Run
from mlcrf.data.manifest import Manifest, Split
from mlcrf.hints import counted
from mlcrf.reports.names import some_names
from mlcrf.reports.text import format_table
from mlcrf.reports.training_tables import format_hints, format_mentions
from mlcrf.version import __version__

_MOST_LABELS = 100  # in a table; with more, only the most frequent are shown
_COMMONEST = 20
_PACKAGES = ("torch", "torchvision", "timm", "openvino", "numpy", "pandas", "pillow", "pyarrow")


def dataset_record(manifest: Manifest, *, top: int) -> dict[str, Any]:
    """Count the images, labels and most frequent pairs of a data set."""
    targets = manifest.targets
    present = (targets == 1).sum(0)
    unknown = (targets < 0).sum(0)
    some = csr_array(targets == 1, dtype=np.int64)  # sparse, since few pairs of many labels occur
    together = coo_array(triu(some.T @ some, 1))
    order = np.lexsort((together.col, together.row, -together.data))[:top]
    splits = manifest.splits
    return {
        "data": manifest.name,
        "images": len(manifest),
        "features": len(manifest.feature_names),
        "splits": None if splits is None else {s.value: splits.count(s) for s in Split},
        "labels_per_image": float((targets == 1).sum(1).mean()) if len(manifest) else 0.0,
        "without_any_label": int((targets == 0).all(1).sum()),
        "none_known_present": int(((targets != 1).all(1) & (targets < 0).any(1)).sum()),
        "labels": {
            name: {"present": int(present[column]), "unknown": int(unknown[column])}
            for column, name in enumerate(manifest.labels)
        },
        "frequent_pairs": [
            [manifest.labels.names[i], manifest.labels.names[j], count]
            for i, j, count in zip(
                together.row[order].tolist(),
                together.col[order].tolist(),
                together.data[order].tolist(),
                strict=True,
            )
        ],
        "rules": manifest.rules.lines(manifest.labels.names),
        "layout": manifest.layout,
        "facts": list(manifest.facts),
        "notes": list(manifest.notes),
    }


def format_dataset(record: dict[str, Any]) -> str:
    """Format a record of `dataset_record`."""
    images, what = record["images"], "row" if record["features"] else "image"
    splits = record["splits"]
    parts = (
        "no splits"
        if splits is None
        else ", ".join(f"{count} {split}" for split, count in splits.items())
    )
    open_rows = record["none_known_present"]
    shown = list(record["labels"].items())
    cut = len(shown) > _MOST_LABELS
    if cut:
        shown = sorted(shown, key=lambda item: -item[1]["present"])[:_COMMONEST]
    rows = [
        [
            name,
            str(counts["present"]),
            f"{100 * counts['present'] / max(images, 1):.1f}",
            str(counts["unknown"]),
        ]
        for name, counts in shown
    ]
    pairs = [
        [f"{first} + {second}", str(count)] for first, second, count in record["frequent_pairs"]
    ]
    number = len(record["labels"])
    return "\n".join(
        [
            f"{record['data']}: {counted(images, what)} ({parts}), {counted(number, 'label')}, "
            f"{record['labels_per_image']:.2f} labels per {what}, "
            f"{counted(record['without_any_label'], what)} without any"
            f"{f', {counted(open_rows, what)} where that is unknown' if open_rows else ''}",
            "",
            *([f"the {_COMMONEST} most frequent labels; --json has all"] if cut else []),
            format_table(["label", "present", "%", "unknown"], rows),
            "",
            format_table(["most frequent pairs", f"{what}s"], pairs),
            *_rules(record),
        ]
    )


def run_record(run: Run) -> dict[str, Any]:
    """Return settings, labels and size of a run."""
    coupled = len(run.crf.edges) > 0
    framing = run.backbone_spec.framing
    return {
        "run": str(run.path),
        "data": run.data,
        "data_sha256": run.made_by.data_sha256,
        "command": run.made_by.command,
        "labels": list(run.labels),
        "backbone": run.backbone_spec.name,
        "views": run.backbone_spec.views,
        **({} if framing is None else {"input": f"{run.backbone_spec.size_px} px, {framing}"}),
        "backbone_trained": run.backbone_weights is not None,
        "inference": run.make_inference().name,
        "couplings": len(run.crf.edges),
        "strongest_coupling": float(run.crf.pairwise.detach().abs().amax()) if coupled else 0.0,
        "gates": run.crf.rank,
        "rules": run.rules.lines(run.labels.names),
        "mentions": run.mentions,
        "hints": run.hints,
        "parameters": sum(p.numel() for p in run.crf.parameters()),
        "digest": run.digest,
        **({"factors": _describe_factors(run)} if run.factors else {}),
        "settings": run.settings.model_dump(mode="json"),
    }


def _describe_factors(run: Run) -> str:
    return "; ".join(f"{model}: {one}" for model, one in run.factors.items())


def format_run(record: dict[str, Any]) -> str:
    """Format a record of `run_record`."""
    apart = ("settings", "labels", "rules", "mentions", "hints")
    rows = [[key, str(value)] for key, value in record.items() if key not in apart]
    settings = [[key, str(value)] for key, value in record["settings"].items()]
    return "\n".join(
        [
            format_table(["run", ""], rows),
            "",
            f"{counted(len(record['labels']), 'label')}: {some_names(record['labels'])}",
            *_rules(record),
            *format_mentions(record["mentions"]),
            *format_hints(record["hints"]),
            "",
            format_table(["setting", ""], settings),
        ]
    )


def _rules(record: dict[str, Any]) -> list[str]:
    rules = record["rules"]
    if not rules:
        return []
    return ["", f"{counted(len(rules), 'rule')}: {some_names([f'`{rule}`' for rule in rules])}"]


def machine_record(cache_dir: Path) -> dict[str, Any]:
    """Return versions, devices and space of this machine; `cache_dir` need not exist."""
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [
            f"cuda:{at} {torch.cuda.get_device_name(at)}" for at in range(torch.cuda.device_count())
        ]
    if torch.backends.mps.is_available():
        devices.append("mps")
    cached = cache_dir.rglob("*") if cache_dir.is_dir() else ()
    return {
        "versions": {"mlcrf": __version__, "python": platform.python_version()}
        | {name: metadata.version(name) for name in _PACKAGES},
        "devices": devices,
        "cores": os.cpu_count(),
        "backbones_offline": available_offline(),
        "free_gb": round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
        "cache_dir": str(cache_dir),
        "cache_gb": round(sum(f.stat().st_size for f in cached if f.is_file()) / 1e9, 3),
    }


def format_machine(record: dict[str, Any]) -> str:
    """Format a record of `machine_record`."""
    backbones = ", ".join(
        name if there else f"{name} (missing: pip install 'mlcrf[lite]')"
        for name, there in record["backbones_offline"].items()
    )
    rows = [
        *([name, version] for name, version in record["versions"].items()),
        ["devices", ", ".join(record["devices"])],
        ["cores", str(record["cores"])],
        ["backbones offline", backbones],
        ["free here, GB", str(record["free_gb"])],
        ["feature cache", f"{record['cache_dir']} ({record['cache_gb']} GB)"],
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)
