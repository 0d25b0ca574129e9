"""Every picture gives one row or one reported error, and bombs do no harm."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mlcrf.errors import DataError
from mlcrf.images import as_image
from mlcrf.images.pixels import load_pixels
from tests.images.test_pixels import KINDS, SIZE_PX, bomb
from tests.reliability.scale import SCALE, times


def mutated(data: bytes, generator: random.Random) -> bytes:
    """Bytes set, bits flipped, stretches lost or made extreme, mostly near the beginning."""
    mutant = bytearray(data)
    for _ in range(generator.randrange(1, 6)):
        near = generator.random() < 0.5
        spot = generator.randrange(min(len(mutant), 120) if near else len(mutant))
        match generator.randrange(4):
            case 0:
                mutant[spot] = generator.randrange(256)
            case 1:
                mutant[spot] ^= 1 << generator.randrange(8)
            case 2:
                mutant[spot : spot + 4] = generator.choice([b"\xff" * 4, bytes(4)])
            case _:
                del mutant[spot : spot + generator.randrange(1, 8)]
    return bytes(mutant)


@pytest.mark.timeout(0)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_random_damage(tmp_path: Path, kind: str) -> None:
    """Damaged files of each kind give pixels or a DataError in one line, and both occur."""
    outcomes = {"pixels": 0, "error": 0}
    path = tmp_path / "damaged"
    for seed in range(max(times(1_250), 250)):
        path.write_bytes(mutated(KINDS[kind](), random.Random(seed)))
        try:
            pixels = load_pixels(as_image(path), SIZE_PX)
        except DataError as error:
            assert str(error).startswith(f"{path}: cannot be read as an image: ")
            assert len(str(error).splitlines()) == 1
            outcomes["error"] += 1
        else:
            assert pixels.shape == (SIZE_PX, SIZE_PX, 3)
            outcomes["pixels"] += 1
    print(f"{kind}: {outcomes}")
    assert min(outcomes.values()) > 0


EMPTY: list[tuple[str, str, dict[str, Any]]] = [  # kind, mode, how it is saved
    ("PNG", "1", {}),
    ("PNG", "L", {}),
    ("PNG", "P", {}),
    ("PNG", "RGB", {}),
    ("PNG", "RGBA", {}),
    ("PNG", "LA", {}),
    ("PNG", "I;16", {}),
    ("PNG", "RGB", {"turned": True}),
    ("TIFF", "1", {"compression": "group4"}),
    ("TIFF", "L", {"compression": "tiff_lzw"}),
    ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("TIFF", "RGB", {"compression": "tiff_adobe_deflate"}),
    ("TIFF", "RGB", {"compression": "jpeg"}),
    ("TIFF", "RGB", {"compression": "tiff_lzw", "turned": True}),
    ("TIFF", "CMYK", {"compression": "tiff_lzw"}),
    ("GIF", "P", {}),
    ("WEBP", "RGB", {}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("AVIF", "RGB", {"speed": 10}),
    ("AVIF", "RGBA", {"speed": 10}),
    ("JPEG", "RGB", {"progressive": True}),
    ("JPEG", "L", {"progressive": True}),
    ("JPEG", "CMYK", {"progressive": True}),
]
SIDES_PX = (4_200, 13_300)  # both beyond what is decoded unasked, and below Pillow's own limit
MEASURE = """
import json, re, sys, time
from pathlib import Path
from mlcrf.images import as_image
from mlcrf.images.pixels import load_pixels
from mlcrf.errors import DataError

def peak_mb():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

load_pixels(as_image(Path(sys.argv[1])), 224)
before = peak_mb()
for path in map(Path, sys.argv[2:]):
    try:
        outcome = load_pixels(as_image(path), 224).mean().item()
    except DataError as error:
        outcome = str(error)
    print(json.dumps([path.name, outcome, peak_mb() - before]))
"""


def make_empty(folder: Path, number: int, side_px: int) -> Path:
    kind, mode, settings = EMPTY[number]
    path = folder / f"{number}-{side_px}.{kind.lower()}"
    options = dict(settings)
    if options.pop("turned", False):
        exif = Image.Exif()
        exif[0x0112] = 6
        options["exif"] = exif
    Image.new(mode, (side_px, side_px)).save(path, kind, **options)
    return path


@pytest.mark.timeout(0)
@pytest.mark.filterwarnings("ignore")
def test_bombs_do_no_harm(tmp_path: Path) -> None:
    """Large empty pages and false headers, 50 in full: told, in little memory.

    In black and white those of 4,200 x 4,200 pixels are no bombs; they are read.
    """
    rng = random.Random(0)
    cases = [(number, side) for number in range(len(EMPTY)) for side in SIDES_PX]
    paths = [
        make_empty(tmp_path, *case)
        for case in rng.sample(cases, len(cases) if SCALE >= 1 else max(times(46), 6))
    ]
    for kind in ("PNG", "JPEG", "GIF", "BMP"):
        paths.append(tmp_path / f"claims.{kind.lower()}")
        paths[-1].write_bytes(bomb(kind))
    harmless = {"0-4200.png": 0.0, "8-4200.tiff": 0.0}
    small = tmp_path / "small.png"
    Image.new("RGB", (64, 64)).save(small)
    command = [sys.executable, "-W", "ignore", "-c", MEASURE, str(small), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(paths)
    for name, outcome, growth_mb in rows:
        print(f"{name}: {outcome}, {growth_mb:.0f} MB so far")
        if name in harmless:
            assert outcome == harmless[name]
        else:
            assert "bomb" in str(outcome), name
        assert growth_mb < 300, name
