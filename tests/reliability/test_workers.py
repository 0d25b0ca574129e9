"""Work is done in threads of one process: killed, it leaves nothing running, and goes on."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mlcrf.backbones import extractor as module
from mlcrf.backbones.extractor import FeatureExtractor
from mlcrf.backbones.registry import find_spec, make_backbone
from mlcrf.choices import EngineName
from mlcrf.errors import DataError
from mlcrf.images import Image
from mlcrf.synthetic.dataset import make_dataset
from tests.making import images_of
from tests.reliability.scale import at_length, times

_PHOTOS = 100


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    make_dataset(folder, seed=0, num_images=_PHOTOS)
    return folder


def start(photos: Path, out: Path, cache: Path) -> "subprocess.Popen[bytes]":
    """`mlcrf predict` in a session of its own, so that all that it starts can be told."""
    words = ["predict", photos, "--out", out, "--overwrite", "--cache-dir", cache]
    command = [sys.executable, "-m", "mlcrf", *map(str, words), "--engine", "torch"]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


def of_session(session: int) -> list[int]:
    """The processes of a session that still run."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            state, _, _, theirs = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        if int(theirs) == session and state != "Z":
            found.append(int(entry.name))
    return found


@at_length
@pytest.mark.timeout(0)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_killed_while_it_decodes(photos: Path, tmp_path: Path) -> None:
    """Killed 50 times in full: nothing beside it was running or goes on, and the next is right."""
    out, cache = tmp_path / "tags.csv", tmp_path / "cache"
    began = time.monotonic()
    undisturbed = start(photos, out, tmp_path / "other")
    _, errors = undisturbed.communicate()
    assert undisturbed.returncode == 0, errors
    longest_s, table = time.monotonic() - began, out.read_bytes()
    rng = np.random.default_rng(0)
    for trial in range(times(50)):
        process = start(photos, out, cache)
        time.sleep(float(rng.uniform(0.3, 0.95)) * longest_s)
        others = set(of_session(process.pid)) - {process.pid}
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert others == set(), f"trial {trial}: processes beside it"
        assert of_session(process.pid) == [], f"trial {trial}: left running"
        assert out.read_bytes() == table
    process = start(photos, out, cache)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert out.read_bytes() == table


class Death(BaseException):
    """An exception that no handler expects."""


@pytest.fixture
def extractor() -> Iterator[FeatureExtractor]:
    torch.manual_seed(0)
    before = set(threading.enumerate())
    backbone = make_backbone(find_spec("tiny"), pretrained=False)
    yield FeatureExtractor(backbone, engine=EngineName.TORCH)
    assert set(threading.enumerate()) <= before, "threads are left"


@pytest.mark.parametrize("death", [Death, MemoryError, KeyboardInterrupt, SystemExit, DataError])
def test_a_thread_that_dies(
    death: type[BaseException],
    extractor: FeatureExtractor,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At ten places: what it died of comes out, or the picture's error; nothing waits for it."""
    paths = sorted((photos / "images").glob("*"))[:100]
    assert len(paths) == 100
    load = module.load_pixels
    for place in np.random.default_rng(0).integers(len(paths), size=10).tolist():

        def die(image: Image, *given: Any, last: Path = paths[place]) -> NDArray[np.uint8]:
            if image.name == str(last):
                raise death(f"{image}: here")
            return load(image, *given)

        monkeypatch.setattr(module, "load_pixels", die)
        if death is DataError:
            found = list(extractor.stream(images_of(paths)))
            assert [isinstance(one, DataError) for one in found].index(True) == place
            assert len(found) == len(paths)
        else:
            with pytest.raises(death, match="here"):
                list(extractor.stream(images_of(paths)))
