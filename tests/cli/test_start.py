"""What a command imports before it works: nothing heavy that it does not need."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mlcrf.synthetic.dataset import make_dataset

_LISTING = """
import atexit, json, sys
from pathlib import Path
place = Path(sys.argv[1])
atexit.register(lambda: place.write_text(json.dumps(sorted(sys.modules))))
from mlcrf.cli import main
sys.argv = ["mlcrf", *sys.argv[2:]]
main()
"""


def _imported(place: Path, *words: object) -> tuple[int, set[str]]:
    """Return the exit status of a command, and all modules that it has imported."""
    modules = place / "modules.json"
    command = [sys.executable, "-c", _LISTING, modules, *words]
    done = subprocess.run(list(map(str, command)), cwd=place, capture_output=True, check=False)
    return done.returncode, set(json.loads(modules.read_text()))


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("models", 0),
        ("predict --no-such-option", 2),
        ("predict no-folder --model mirflickr24 --out tags.csv", 1),
        ("predict . --model no-run --out tags.csv", 1),
        ("tag no-folder --xmp", 1),
        ("evaluate mirflickr24 no-table.csv", 1),
        ("extend no-run . --out new", 1),
        ("train no-table.csv --out new", 1),
        ("train . --out new --set penalty=1", 1),
        ("features no-folder --out features.parquet", 1),
        ("compare mirflickr24 mirflickr38 --data no-table.csv", 1),
        ("inspect no-table.csv", 1),
        ("convert no-table.csv --out tags.jsonl", 1),
        ("plot-correlations no-run --out couplings.png", 1),
        ("review no-folder", 1),
    ],
)
def test_what_is_missing_is_said_before_torch_is_there(
    tmp_path: Path, words: str, status: int
) -> None:
    returned, modules = _imported(tmp_path, *words.split())
    assert returned == status
    assert not modules & {"torch", "pandas", "scipy", "matplotlib"}


def test_a_photo_with_kept_features_needs_no_network(tmp_path: Path) -> None:
    """Nor what only training, other inference or drawing need."""
    make_dataset(tmp_path / "drawn", num_images=4, image_size_px=64)
    words = ["predict", "drawn/images", "--out", "tags.csv", "--overwrite", "--cache-dir", "kept"]
    for _ in range(2):
        returned, modules = _imported(tmp_path, *words, "--engine", "torch")
        assert returned == 0
    heavy = {"timm", "torchvision", "sklearn", "networkx", "matplotlib", "scipy.special", "pandas"}
    assert not modules & heavy
    assert not {"scipy.sparse", "torch._dynamo", "accelerate"} & modules
