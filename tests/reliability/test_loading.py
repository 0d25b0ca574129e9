"""Nothing that is loaded runs code: not a pickle, not a header, and no other way to load exists."""

import importlib.util
import io
import json
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from mlcrf.atomic import write_sealed
from mlcrf.backbones.registry import find_spec
from mlcrf.checkpoint import CONFIG, STATE, WEIGHTS, Run, load_run, save_run
from mlcrf.config import TrainSettings
from mlcrf.errors import RunError
from mlcrf.labels import LabelSpace
from mlcrf.model import LabelCrf, no_edges
from mlcrf.training.stages import Stages

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Call:
    """An object that calls something when it is unpickled."""

    function: Any
    arguments: tuple[Any, ...]

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


def find(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


# what is called, with `{}` where the path of a file stands that must not come to be
CALLS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "mkdir": ("os:mkdir", ("{}",)),
    "makedirs": ("os:makedirs", ("{}",)),
    "system": ("os:system", ("touch {}",)),
    "popen": ("os:popen", ("touch {}",)),
    "spawn": ("os:spawnlp", (0, "touch", "touch", "{}")),
    "run": ("subprocess:run", (["touch", "{}"],)),
    "call": ("subprocess:check_output", (["touch", "{}"],)),
    "eval": ("builtins:eval", ("open({!r}, 'w').close()",)),
    "exec": ("builtins:exec", ("open({!r}, 'w').close()",)),
    "open": ("builtins:open", ("{}", "w")),
    "symlink": ("os:symlink", ("/", "{}")),
    "copy": ("shutil:copyfile", (__file__, "{}")),
    "archive": ("shutil:copytree", (str(Path(__file__).parent), "{}")),
    "timeit": (
        "timeit:timeit",
        ("open({!r}, 'w').close()", "pass", find("timeit:default_timer"), 1),
    ),
    "path": ("tests.reliability.test_loading:touch", ("{}",)),
    "console": ("code:compile_command", ("open({!r}, 'w')",)),
    "temporary": ("tempfile:mktemp", ("", "x", "{}")),
    "import": ("importlib:import_module", ("antigravity",)),
    "hub": ("torch.hub:load", ("{}", "model", "local")),
    "attribute": ("operator:methodcaller", ("touch",)),
}


def touch(path: str) -> None:
    Path(path).touch()


def payload(name: str, harm: Path) -> Call:
    function, arguments = CALLS[name]

    def filled(one: Any) -> Any:
        if isinstance(one, str) and "{" in one:
            return one.format(str(harm))
        return [filled(part) for part in one] if isinstance(one, list) else one

    return Call(find(function), tuple(filled(one) for one in arguments))


def as_pickle(content: object) -> bytes:
    return pickle.dumps(content)


def as_torch(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


@pytest.fixture
def saved(tmp_path: Path) -> Run:
    """A run with two labels."""
    path = tmp_path / "run"
    path.mkdir()
    models = LabelCrf(4, 2), LabelCrf(4, 2, edges=no_edges())
    run = Run(path, LabelSpace(("a", "b")), TrainSettings(), find_spec("lite0"), "d", *models, None)
    return save_run(run)


@pytest.mark.parametrize("form", [as_pickle, as_torch])
@pytest.mark.parametrize("name", CALLS)
def test_malicious_pickles(
    saved: Run, tmp_path: Path, name: str, form: Callable[[object], bytes]
) -> None:
    """Sealed as if we had written it, or in place of weights: one line, and nothing was called."""
    harm = tmp_path / "harm"
    bait = payload(name, harm)
    content = form({"settings": "settings", "results": {"first": bait}})
    state = saved.path / STATE
    write_sealed(state, content)
    (saved.path / WEIGHTS).write_bytes(content)
    before = set(sys.modules)
    for load, path in ((lambda: Stages(state, "settings"), state), (load_all(saved), WEIGHTS)):
        with pytest.raises(RunError) as caught:
            load()
        assert str(path) in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert not harm.exists()
    assert "antigravity" not in set(sys.modules) - before


def load_all(run: Run) -> Callable[[], Run]:
    return lambda: load_run(run.path)


def test_the_bait_is_good(tmp_path: Path) -> None:
    """Unpickled carelessly, most of them do leave something behind."""
    harmed = []
    for name in ("mkdir", "system", "run", "eval", "exec", "open", "copy", "timeit", "path"):
        harm = tmp_path / name
        pickle.loads(pickle.dumps(payload(name, harm)))
        harmed.append(harm.exists())
    assert all(harmed)


def header(content: object, body: bytes = b"", length: int | None = None) -> bytes:
    """A file in the format of safetensors."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def tensor(start: int = 0, end: int = 8, shape: Any = (2,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "half a length": b"\1\0\0",
    "length beyond the file": header({}, length=1 << 20),
    "length of 2**63": header({}, length=1 << 63),
    "length of 2**64 - 1": header({}, length=(1 << 64) - 1),
    "length of nothing": header({}, length=0),
    "no JSON": header(b"\x80\x04K\x01."),
    "no UTF-8": header(b'{"\xff": 1}'),
    "a list": header([1, 2]),
    "deep": header(b"[" * 100_000 + b"]" * 100_000),
    "no tensors": header({}),
    "offsets beyond": header({"crf.edges": tensor(0, 1 << 40)}),
    "offsets backwards": header({"crf.edges": tensor(8, 0)}, bytes(8)),
    "negative offsets": header({"crf.edges": tensor(-8, 0)}, bytes(8)),
    "overlap": header({"crf.a": tensor(), "crf.b": tensor(4, 12)}, bytes(12)),
    "shape that does not fit": header({"crf.edges": tensor(shape=(3,))}, bytes(8)),
    "shape that overflows": header({"crf.edges": tensor(shape=(1 << 40, 1 << 40))}, bytes(8)),
    "unknown type": header({"crf.edges": tensor(dtype="object")}, bytes(8)),
    "type of code": header({"crf.edges": tensor(dtype="os.system")}, bytes(8)),
    "one name twice": header(
        b'{"crf.edges":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"crf.edges":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        bytes(8),
    ),
    "names of dunders": header({"__class__.__init__": tensor()}, bytes(8)),
    "bytes behind": header({"crf.edges": tensor()}, bytes(800)),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_weights(saved: Run, name: str) -> None:
    """One line that names the file."""
    (saved.path / WEIGHTS).write_bytes(MALFORMED[name])
    with pytest.raises(RunError, match=WEIGHTS) as caught:
        load_run(saved.path)
    assert len(str(caught.value).splitlines()) == 1


CONFIGS: dict[str, bytes] = {
    "nothing": b"",
    "deep": b'{"format":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a number of a million digits": b'{"format":' + b"1" * 1_000_000 + b"}",
    "no UTF-8": b'{"format": 1, "data": "\xff"}',
    "a lone surrogate": b'{"format": 1, "data": "\\ud800"}',
    "NaN": b'{"format": NaN}',
    "a list": b"[1]",
    "a string": b'"format"',
    "another version": b'{"format": 99}',
    "a path as backbone": b'{"format": 1, "settings": {}, "backbone": {"name": "../../x"}}',
    "settings that are none": b'{"format": 1, "settings": [], "backbone": {}}',
}


@pytest.mark.parametrize("name", CONFIGS)
def test_malformed_settings(saved: Run, name: str) -> None:
    """One line that names the file."""
    (saved.path / CONFIG).write_bytes(CONFIGS[name])
    with pytest.raises(RunError, match=CONFIG) as caught:
        load_run(saved.path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "import pickle\n\npickle.loads(b'')\n",
        "from torch import load\n\nload('a')\n",
        "import torch as t\n\nt.load('a')\n",
        "import numpy as np\n\nnp.load('a', allow_pickle=True)\n",
        "import pandas as pd\n\npd.read_pickle('a')\n",
        "import joblib\n",
        "import marshal\n",
        "eval('1')\n",
    ],
)
def test_no_other_way_to_load_passes_the_check(text: str) -> None:
    """`make check` refuses what would run code out of a file, by rule TID251 of ruff or like it."""
    command = [sys.executable, "-m", "ruff", "check", "--quiet", "--output-format", "concise"]
    done = subprocess.run(
        [*command, "--stdin-filename", "mlcrf/labels.py", "-"],
        input=text,
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 1
    assert any(rule in done.stdout for rule in ("TID251", "S301", "S307")), done.stdout
