"""A small mirror of MIRFLICKR with real photos, where the shared copy is to be had."""

import hashlib
import os
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MIRROR = Path(os.environ.get("MLCRF_MIRFLICKR_MIRROR", ROOT.parent / "shared" / "mirflickr25k"))
ARCHIVES = ("mirflickr25k.zip", "mirflickr25k_annotations_v080.zip")


def make_small_mirror(folder: Path, numbers: list[int]) -> Path:
    """Copy the archives with only the photos of the given numbers; skip where there are none."""
    if not all((MIRROR / name).exists() for name in ARCHIVES):
        pytest.skip(f"no MIRFLICKR archives in {MIRROR}; set MLCRF_MIRFLICKR_MIRROR")
    folder.mkdir()
    wanted = {f"mirflickr/im{number}.jpg" for number in numbers}
    for name in ARCHIVES:
        with zipfile.ZipFile(MIRROR / name) as old, zipfile.ZipFile(folder / name, "w") as new:
            for member in old.namelist():
                if not member.endswith(".jpg") or member in wanted:
                    new.writestr(member, old.read(member))
    sums = (f"{hashlib.sha256((folder / n).read_bytes()).hexdigest()}  {n}\n" for n in ARCHIVES)
    (folder / "SHA256SUMS").write_text("".join(sums))
    return folder
