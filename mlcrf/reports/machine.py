"""What a machine offers: versions, devices, backbones, space."""

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from mlcrf.backbones.registry import available_offline
from mlcrf.version import __version__

_PACKAGES = ("torch", "torchvision", "timm", "openvino", "numpy", "pandas", "pillow", "pyarrow")


def machine_record(cache_dir: Path) -> dict[str, Any]:
    """Look at this machine; `cache_dir` need not exist."""
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
    """The record for people."""
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
