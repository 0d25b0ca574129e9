"""Whatever a run directory holds, it is loaded, or refused in one line that names it."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save

from mlcrf.backbones.registry import find_spec
from mlcrf.checkpoint import (
    CONFIG,
    LABELS,
    SPLITS,
    STATE,
    WEIGHTS,
    Run,
    load_run,
    load_splits,
    save_run,
)
from mlcrf.config import TrainSettings
from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.readers.table import save_manifest
from mlcrf.decoding import Decoder
from mlcrf.images import as_image
from mlcrf.model import LabelCrf, no_edges
from mlcrf.rules import Rules
from mlcrf.training.stages import Stages
from tests.reliability.fuzzing import LABEL_SPACE, VALUES, Outcomes, fuzz, spoilt

pytestmark = pytest.mark.timeout(0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with all kinds of weights: gates, a hidden layer, rules, thresholds."""
    path = tmp_path_factory.mktemp("run")
    crf = LabelCrf(4, 3, hidden=2, rank=1, rules=Rules(((0, 1),)))
    independent = LabelCrf(4, 3, edges=no_edges())
    for model in (crf, independent):
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
    decoders = {"crf": (Decoder(Decoder().rule, 0.5),)}
    run = Run(
        path,
        LABEL_SPACE,
        TrainSettings(),
        find_spec("lite0"),
        "d",
        crf,
        independent,
        None,
        "",
        decoders,
    )
    (path / "im.jpg").touch()
    targets = np.array([[1, 1, -1]], dtype=np.int8)
    save_manifest(
        path / SPLITS,
        Manifest((as_image(path / "im.jpg"),), targets, LABEL_SPACE, (Split.TRAIN,), "d"),
    )
    Stages(path / STATE, "settings").keep("one", {"value": torch.ones(2)})
    return save_run(run)


def use(path: Path) -> None:
    """Load a run and ask it for what prediction needs."""
    run = load_run(path)
    assert run.crf.edges.dtype == torch.int64
    assert len(run.rules) == len(run.crf.rules)
    features = torch.zeros(2, run.crf.hidden.in_features if run.crf.hidden else 4)
    for model in (run.crf, run.independent):
        potentials = model(features)
        run.make_inference()(potentials)
    for decoders in run.decoders.values():
        assert all(isinstance(one, Decoder) for one in decoders)


def replaced(record: Any, keys: list[int], value: Any) -> Any:
    """A record with one of its values, at any depth, in place of which stands another."""
    if not keys or not isinstance(record, dict | list) or not record:
        return value
    names = list(record) if isinstance(record, dict) else range(len(record))
    name = names[keys[0] % len(names)]
    return type(record)(
        {**record, name: replaced(record[name], keys[1:], value)}
        if isinstance(record, dict)
        else [
            replaced(one, keys[1:], value) if at == name else one for at, one in enumerate(record)
        ]
    )


KEYS = st.lists(st.integers(0, 40), min_size=1, max_size=4)


@pytest.mark.parametrize("name", [CONFIG, LABELS, WEIGHTS, SPLITS, STATE])
def test_damaged_runs(run: Run, name: str) -> None:
    """Any file of a run damaged: it is refused by name, or all that is asked of the run works."""
    outcomes, file = Outcomes(), run.path / name
    whole = file.read_bytes()
    actions: dict[str, Callable[[], object]] = {
        SPLITS: lambda: load_splits(run),
        STATE: lambda: Stages(file, "settings"),
    }

    @fuzz(6_000, 60)
    @given(content=spoilt(whole))
    @example(content=b"[" * 2000)
    def check(content: bytes) -> None:
        file.write_bytes(content)
        action = actions.get(name, lambda: use(run.path))
        outcomes.attempt(action, run.path, lines=21 if name == SPLITS else 1)

    try:
        check()
    finally:
        file.write_bytes(whole)
    outcomes.require_both()


def test_strange_run_settings(run: Run) -> None:
    """Any value in config.json exchanged for any other."""
    outcomes, file = Outcomes(), run.path / CONFIG
    whole = file.read_text()

    @fuzz(6_000, 60)
    @given(keys=KEYS, value=VALUES)
    @example(keys=[3, 2], value=float("inf"))
    @example(keys=[3, 3], value=[])
    @example(keys=[3, 4], value=[1, 1])
    @example(keys=[5], value=0)
    @example(keys=[5], value=10**9)
    @example(keys=[5], value=10**30)
    @example(keys=[7], value={"\n": [{}]})
    def check(keys: list[int], value: Any) -> None:
        file.write_text(json.dumps(replaced(json.loads(whole), keys, value)))
        outcomes.attempt(lambda: use(run.path), run.path)

    try:
        check()
    finally:
        file.write_text(whole)
    outcomes.require_both()


SIDES = st.sampled_from([0, 1, 2, 3, 4, 10**9])
SHAPES = st.lists(SIDES, max_size=3).filter(lambda shape: np.prod(shape) < 100)
DTYPES = st.sampled_from(
    [
        torch.float32,
        torch.float64,
        torch.float16,
        torch.int64,
        torch.int32,
        torch.bool,
        torch.complex64,
        torch.float8_e4m3fn,
    ]
)


def test_strange_weights(run: Run) -> None:
    """Tensors of another shape, type or value, more and fewer of them; headers that lie."""
    outcomes, file = Outcomes(), run.path / WEIGHTS
    whole = file.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + length])
    tensors = {
        f"{part}.{key}": value
        for part, model in (("crf", run.crf), ("independent", run.independent))
        for key, value in model.state_dict().items()
    }

    @fuzz(6_000, 60)
    @given(
        key=st.sampled_from(sorted(tensors)),
        shape=SHAPES | st.none(),
        dtype=DTYPES,
        number=st.sampled_from([0.0, 1.0, 2.0, -1.0, 1e38, float("nan"), float("inf"), 1e300]),
        lie=st.none() | st.tuples(KEYS, VALUES),
    )
    @example(key="crf.pairwise", shape=None, dtype=torch.float32, number=1.0, lie=None)
    @example(key="crf.edges", shape=[], dtype=torch.int64, number=0.0, lie=None)
    @example(key="crf.edges", shape=None, dtype=torch.int64, number=-1.0, lie=None)
    @example(key="crf.factors", shape=[10**9, 0], dtype=torch.float32, number=0.0, lie=None)
    @example(key="crf.implications", shape=None, dtype=torch.int64, number=2.0, lie=None)
    @example(key="crf.pairwise", shape=None, dtype=torch.float64, number=1e300, lie=None)
    def check(
        key: str,
        shape: list[int] | None,
        dtype: torch.dtype,
        number: float,
        lie: tuple[list[int], Any] | None,
    ) -> None:
        if lie is None:
            size = tensors[key].shape if shape is None else shape
            try:
                other = torch.full(size, number, dtype=torch.float64).to(dtype)
            except RuntimeError:
                return
            content = save(tensors | {key: other})
        else:
            raw = json.dumps(replaced(header, *lie)).encode()
            content = struct.pack("<Q", len(raw)) + raw + whole[8 + length :]
        file.write_bytes(content)
        outcomes.attempt(lambda: use(run.path), run.path)

    try:
        check()
    finally:
        file.write_bytes(whole)
    outcomes.require_both()
