"""The benchmarks run, on tiny sizes, and their JSON holds what readers of it look for."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.benchmarks import big_labels, layer
from mlcrf.choices import Schedule
from mlcrf.config import TrainSettings
from mlcrf.crf import Potentials
from mlcrf.labels import LabelSpace
from mlcrf.training.examples import Examples
from mlcrf.training.fitting import fit_features

FOLDER = Path(__file__).parents[2] / "experiments" / "benchmarks"
KEYS = {
    "exact": {
        "labels",
        "ms_per_image",
        "states_per_s",
        "share_of_matmul",
        "pruned_speedup",
        "gradient_over_marginals",
        "error_bound",
        "max_error",
        "images",
        "model",
    },
    "approximate": {
        "method",
        "model",
        "ms_per_image",
        "marginal_error",
        "pairwise_error",
        "log_partition_error",
    },
    "gibbs": {
        "labels",
        "cores",
        "updates_per_s",
        "dwave_updates_per_s",
        "torch_updates_per_s",
        "effective_samples_per_s",
        "dwave_effective_samples_per_s",
    },
}


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)


def run_quick(out: Path, *parts: str) -> tuple[dict[str, Any], str]:
    command = [sys.executable, str(FOLDER / "inference.py"), "--quick", "--out", str(out)]
    done = subprocess.run(
        [*command, "--parts", *parts], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text()), done.stdout


def small_model(num_labels: int = 6) -> Potentials:
    from models import random_model

    return random_model(num_labels, 1, 0.8)


def test_parts_without_peers(tmp_path: Path) -> None:
    """Exact, approximate and growth are measured, tabulated and drawn without any peer."""
    result, printed = run_quick(tmp_path / "out.json", "exact", "approximate", "growth")
    for part in ("exact", "approximate"):
        assert result[part]
        for row in result[part]:
            assert row.keys() >= KEYS[part]
    assert {"torch", "numba"} <= result["versions"].keys() and result["threads"] >= 1
    assert {row["axis"] for row in result["growth"]} == {"labels", "images", "chains"}
    refused = [row for row in result["growth"] if "stopped" in row]
    assert [(row["method"], row["size"]) for row in refused] == [("exact", 40)]
    assert all(row["seconds"] > 0 for row in result["growth"] if "stopped" not in row)
    assert len(list(tmp_path.glob("growth-*.png"))) == 3
    assert "### Exact inference" in printed and "### Growth" in printed


def test_gibbs_beside_peers() -> None:
    """A row on sampling says how fast both sides are, and what effective samples come of it."""
    pytest.importorskip("dwave.samplers", reason="dwave-samplers is not installed")
    import gibbs

    row = gibbs.measure("even", 6, None, 1, 0.01, "")  # no thrml, which compiles for long
    assert row.keys() >= KEYS["gibbs"]
    assert all(value > 0 for key, value in row.items() if key.endswith("_per_s"))


def test_samplers_agree_with_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours, dwave-samplers on two threads and the loop in torch sample the model they are given."""
    pytest.importorskip("dwave.samplers", reason="dwave-samplers is not installed")
    import gibbs

    monkeypatch.setattr(gibbs, "installed", lambda _: False)  # no thrml
    largest = gibbs.check_samplers(2, "")
    names = {"ours", "states", "dwave", "torch"}
    assert largest.keys() == {f"{name}, {kind}" for name in names for kind in ("full", "tree")}


@pytest.mark.parametrize("name", ["PgmpyElimination", "PgmpyBeliefPropagation"])
def test_pgmpy_gets_the_same_model(name: str) -> None:
    """The model as it is handed to pgmpy has our marginals and log Z."""
    pytest.importorskip("pgmpy", reason="pgmpy is not installed")
    import peers

    from mlcrf.inference import Exact

    potentials = small_model()
    truth, peer = Exact()(potentials), getattr(peers, name)(potentials)
    assert torch.allclose(peer.marginals().float(), truth.marginals[0], atol=1e-5)
    assert math.isclose(float(peer.log_partition()), float(truth.log_partition), abs_tol=1e-4)


def test_spins_have_the_same_energy() -> None:
    """The model as it is handed to samplers of spins has energy -log_score up to a constant."""
    pytest.importorskip("dimod", reason="dwave-samplers is not installed")
    from peers import to_spins

    potentials = small_model()
    model = to_spins(potentials)
    states = torch.randint(2, (20, 1, 6), generator=torch.Generator().manual_seed(0))
    energies = torch.tensor(
        [model.energy({i: 2 * int(y) - 1 for i, y in enumerate(state[0])}) for state in states]
    )
    assert torch.allclose(energies, -potentials.log_score(states)[:, 0].double(), atol=1e-4)


def test_a_wrong_sampler_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sampler whose couplings are a tenth too weak does not pass for one of the model."""
    pytest.importorskip("dwave.samplers", reason="dwave-samplers is not installed")
    import gibbs

    def too_weak(potentials: Potentials, cores: int, cache: str, **_: int) -> dict[str, Any]:
        weak = Potentials(potentials.unary, potentials.edges, 0.9 * potentials.pairwise)
        return {"weak": gibbs.TorchLoop(weak, chains=8192)}

    monkeypatch.setattr(gibbs, "make_samplers", too_weak)
    with pytest.raises(AssertionError, match="weak samples another distribution"):
        gibbs.check_samplers(1, "")


def test_torch_loop_counts_its_updates() -> None:
    """A sweep of S chains of L labels is S x L updates, and only those count."""
    from peers import TorchLoop

    work = TorchLoop(small_model(), chains=10).run(3)
    assert work.updates == 3 * 10 * 6 and work.seconds > 0


def test_a_killed_process_is_told_from_a_slow_one() -> None:
    """A process that takes too long is stopped, and one that dies says so at once."""
    import os
    import time

    from processes import Stopped, run_apart

    with pytest.raises(Stopped, match="not done"):
        run_apart(time.sleep, 60, cores=1, timeout_s=1)
    with pytest.raises(Stopped, match="killed"):
        run_apart(os.abort, cores=1, timeout_s=60)
    with pytest.raises(RuntimeError, match="math domain error"):
        run_apart(math.sqrt, -1, cores=1, timeout_s=60)


def test_peak_memory_sees_what_was_given_back() -> None:
    """Memory that a call takes and gives back before it ends counts, what was there does not."""
    from processes import peak_memory_mb

    kept = torch.ones(10_000_000)
    assert abs(peak_memory_mb(lambda: torch.ones(25_000_000)) - 100) < 10
    assert len(kept) and peak_memory_mb(lambda: None) < 5


def test_sparse_edges_are_pairs_once_each() -> None:
    """As many edges as asked for, each a pair i < j, none twice, even if nearly all are wanted."""
    from models import sparse_edges

    edges = sparse_edges(8, 27, torch.Generator().manual_seed(0))
    assert len(set(map(tuple, edges.tolist()))) == 27
    assert bool((edges[:, 0] < edges[:, 1]).all()) and int(edges.max()) <= 7


def test_tables_go_between_their_marks() -> None:
    """A page keeps its text; only what is between the marks is replaced, again and again."""
    from tables import fill

    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    filled = fill(page, "| new |")
    assert "| new |" in filled and fill(filled, "| newer |").count("| new") == 1
    assert filled.split("<!-- tables: begin -->")[0] == page.split("<!-- tables: begin -->")[0]


def test_a_stall_is_felt_by_all_who_would_have_come(tmp_path: Path) -> None:
    """An open loop goes on asking while the service stalls; a closed one asks once a connection."""
    import asyncio

    import load

    (tmp_path / "body").write_bytes(b"12345")

    async def measured(stalled: int, **more: Any) -> tuple[dict[str, Any], int]:
        """A service that lets so many requests wait, from the 60th, and then 0.3 s more."""
        number = waiting = most = 0
        enough = asyncio.Event()

        async def stall() -> None:
            nonlocal waiting, most
            waiting += 1
            most = max(most, waiting)
            if waiting == stalled:
                enough.set()
            await enough.wait()
            await asyncio.sleep(0.3)
            waiting -= 1

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal number
            while head := await reader.readline():
                post = head.startswith(b"POST")
                await reader.readuntil(b"\r\n\r\n")
                assert not post or await reader.readexactly(5) == b"12345"
                number += post
                if post and number >= 60 and not enough.is_set():
                    await stall()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        plan = {"address": address, "path": "/", "type": "x", "bodies": [tmp_path / "body"]}
        found = await load.run(plan | {"warm_s": 0.1, "seconds": 1.4} | more)
        server.close()
        return found, most

    # arrivals are drawn: as many on a slow machine, where they are late
    opened, most = asyncio.run(measured(40, rate=200, seed=0))
    assert most == 40 and opened["statuses"] == {"200": opened["requests"]}
    assert opened["requests"] < 800 and opened["latency_s"]["p95"] >= 0.3
    closed, most = asyncio.run(measured(1, connections=2))
    assert most <= 2 and closed["opened"] == 3
    assert closed["statuses"] == {"200": closed["requests"]}


def test_quantiles_of_loads() -> None:
    """The value that so many of a thousand do not exceed; of nothing there is none."""
    import load

    found = load.quantiles([float(at) for at in range(1000, 0, -1)])
    assert [found[name] for name in ("p50", "p95", "p99", "p99.9", "max")] == [
        *(500, 950, 990, 999, 1000),
    ]
    assert load.quantiles([3.0])["p50"] == 3 and load.quantiles([]) == {}


def test_a_photo_without_a_row_or_with_two_ends_the_measurement(tmp_path: Path) -> None:
    """Tables of two photos and a broken one are counted if they are whole."""
    import cluster

    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "photos" / name).touch()
    plain, other = tmp_path / "plain.csv", tmp_path / "other.csv"
    rows = [f"{tmp_path}/photos/{name}.jpg,sea,0.5\n" for name in "ab"]
    plain.write_text("image,labels,p:sea\n" + "".join(rows))
    other.with_suffix(".errors.csv").write_text(f"image,error\n{tmp_path}/photos/c.jpg,broken\n")
    for kept, match in ((rows[:1], "no row and no error"), ([*rows, rows[0]], "more than one")):
        other.write_text("image,labels,p:sea\n" + "".join(kept))
        with pytest.raises(SystemExit, match=match):
            cluster.compare(tmp_path / "photos", plain, other)
    other.write_text(plain.read_text().replace("0.5", "0.25"))
    counted = cluster.compare(tmp_path / "photos", plain, other)
    assert counted == {"rows": 2, "errors": 1, "largest_difference": 0.25}


def test_features_that_are_mapped_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same fit on mapped and on held features, whose figures `plan.py` reads."""
    import mapped_features
    import plan

    monkeypatch.setattr(mapped_features, "FEATURES", 8)
    mapped_features.draw(tmp_path, 1000)
    mapped, held = (
        mapped_features.measure(tmp_path, 1000, 1000, held=held) for held in (False, True)
    )
    assert mapped["loss"] == held["loss"] > 0 and mapped["rows"] == 1000
    assert mapped["ratio_to_products"] > 0 and mapped["megabytes_of_files"] > 0
    rows = plan.training({"cases": {"an eighth": mapped}})
    assert [row[0] for row in rows] == ["moments and rotation", *plan.GRADIENTS]


def test_what_a_plan_multiplies() -> None:
    """Eight times the cores are eight times as fast; beside a GPU decoding is waited for."""
    import plan

    rates = {"decode_images_per_s": 400, "crf_images_per_s": 6000, "mlcrf_images_per_s": 90}
    assert plan.tagging_rate(plan.Machine("", 16, 1), rates) == (720, "network")
    rate, slowest = plan.tagging_rate(plan.Machine("", 8, 1, gpu=True), rates)
    assert slowest == "decoding" and rate == pytest.approx(1500)
    many = plan.tagging_rate(plan.Machine("", 192, 1, gpu=True), rates)
    assert many == (plan.GPU_IMAGES_PER_S, "network")


def test_big_labels_measures_and_learns() -> None:
    """One small case of each objective: a row that the tables are made of."""
    rows = [big_labels.measure(name, 100, 300, 4, 3) for name in big_labels.CASES]
    for row in rows:
        assert row["ratio"] > 0
        assert 0 < row["crf_map"] < 1
        assert math.isfinite(row["nll_estimate"])
    made = big_labels.tables({"rows": rows})
    assert all(len(one.splitlines()) == 4 for one in made.values())


def test_teaching_is_measured() -> None:
    """One small case: what was learned meanwhile, and how long each part took."""
    import teaching

    row = teaching.measure(teaching.Case(photos=40, tags=2, answers=40), turns=1, answers=2)
    assert row["learn_s"] > 0 and row["answer_most_s"] >= row["answer_s"] > 0
    assert row["lessons_meanwhile"] >= 0


def test_answers_are_measured() -> None:
    """A drawn model has couplings between different labels, each once."""
    import answers

    crf = answers.draw(30)
    row = answers.measure("drawn", crf, 2)
    assert 0 < len(torch.unique(crf.edges, dim=0)) == row["couplings"] <= 120
    assert row["answers"] == 2 * answers.PER_PHOTO
    assert row["answer_most_s"] >= row["answer_s"] > 0


def test_layer_is_measured_and_learns_what_the_engine_does() -> None:
    """A step, a loop beside a joint fit on the same drawn features, and both tables."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(300, 5, generator=generator) * torch.tensor([1.0, 2, 3, 4, 5]) + 1
    targets = (features[:, :4] + 2 * torch.randn(300, 1, generator=generator) > 1).numpy()
    settings = TrainSettings(
        penalties=(layer.WEIGHTS,),
        pairwise_penalties=(layer.COUPLINGS,),
        schedule=Schedule.JOINT,
        structure_weights=(1.0,),
        exact_tolerance=1e-6,
    )
    parts = [
        Examples(features[rows].numpy(), targets[rows].astype(np.int8))
        for rows in (slice(200), slice(200, 300))
    ]
    fitted = fit_features(*parts, LabelSpace(tuple("abcd")), settings)
    learned = layer.compare(features, torch.from_numpy(targets).long(), fitted.crf.model)
    assert abs(learned["loop_loss"] - learned["train_loss"]) < 1e-4
    assert learned["correlation_of_couplings"] > 0.9999
    assert learned["independent_loss"] - learned["loop_loss"] > 0.1
    step = layer.measure(6, 0.2, turns=2)
    assert step["same_loss"] < 1e-5 and step["ratio"] > 0
    made = layer.tables({"steps": [step], "learned": learned})
    assert made["steps"].startswith("| labels | unknown | layer, ms |")
    assert made["learned"].count("\n") == 2
