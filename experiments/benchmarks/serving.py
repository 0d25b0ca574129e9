"""`mlcrf serve` under load, beside `Tagger` on the same photos.

    make bench-serving [DATA=folder RUN=run OUT=file.json QUICK=1]

For photos of two sizes: photos a second of `Tagger.predict` from files, nothing kept; the service's
capacity, which is the most that connections in a closed loop get answered; then what open loops at
shares of it find (`load.py`, a process of its own): latencies, errors, `/health`, and how many
photos were worked on together. Offline and capacity take turns.
"""

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from urllib.request import Request, urlopen

import torch
from predict import make_photos
from tables import format_tables
from timing import describe_machine, median_ratio, seconds_of

from mlcrf.checkpoint import load_run
from mlcrf.data.manifest import Split
from mlcrf.data.readers import ReadOptions, read_dataset
from mlcrf.data.splits import split_manifest
from mlcrf.prediction import Tagger

SIZES = {"128 x 128": (128, 128), "500 x 375": (500, 375)}
LOADS = (0.5, 0.8, 0.95, 1.5)
_CONNECTIONS = (16, 64, 128)
_TOGETHER = 8  # photos of a request with JSON
_TOLERANCE = 1e-3  # between probabilities; sums are rounded by what is worked on together


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a line a row, write the JSON file and the tables."""
    options = _parse(arguments)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    run, began = load_run(options.run), perf_counter()
    data = split_manifest(read_dataset(options.data, ReadOptions(run.label_set)), seed=0)
    test = data.part(Split.TEST).images[: 64 if options.quick else 1024]
    before, tagger = os.getloadavg()[0], Tagger(run)
    capacities, loads = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name, size in SIZES.items():
            place = Path(folder) / name.replace(" ", "")
            photos = make_photos([Path(one.name) for one in test], place / "photos", size)
            with Service(options.run) as service:
                service.check(tagger, photos[:8])
                capacity = _capacity(service, tagger, photos, place, quick=options.quick)
                capacities.append({"photos": name, "count": len(photos)} | capacity)
                print(json.dumps(capacities[-1]), flush=True)
                for row in _loads(service, photos, capacity["served_per_s"], quick=options.quick):
                    loads.append({"photos": name} | row)
                    print(json.dumps(loads[-1]), flush=True)
    machine = describe_machine()
    names = ("mlcrf", "fastapi", "starlette", "uvicorn", "h11", "openvino", "pillow")
    machine["versions"] |= {name: version(name) for name in names}
    result = machine | {"quick": options.quick, "seconds": perf_counter() - began}
    result |= {"load_before": before, "capacity": capacities, "loads": loads}
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"\n{format_tables(result)}\nwrote {options.out}")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of MIRFLICKR")
    parser.add_argument("--run", type=Path, default=Path("mirflickr24"), help="or a model's name")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("serving.json"))
    parser.add_argument("--quick", action="store_true", help="64 photos, a second or two each")
    return parser.parse_args(arguments)


class Service:
    """`mlcrf serve` as users start it, in a process of its own."""

    def __init__(self, run: Path, *options: str) -> None:
        command = [sys.executable, "-m", "mlcrf", "serve", str(run), "--port", "0", *options]
        free = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=free)

    def __enter__(self) -> "Service":
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        if not self.address:
            raise SystemExit("the service did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate(timeout=60)

    def metric(self, name: str) -> float:
        """A number of `/metrics`."""
        with urlopen(f"{self.address}/metrics") as reply:
            lines = reply.read().decode().splitlines()
        return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name} "))

    def check(self, tagger: Tagger, photos: Sequence[Path]) -> None:
        """Check that the service answers as `Tagger` does for the same photos."""
        for photo, expected in zip(photos, tagger.predict(photos), strict=True):
            headers = {"Content-Type": "image/jpeg"}
            request = Request(f"{self.address}/tags/image", photo.read_bytes(), headers)
            with urlopen(request) as reply:
                p = json.load(reply)["p"].values()
            off = max(abs(a - b) for a, b in zip(p, expected.marginals, strict=True))
            if off > _TOLERANCE:
                raise SystemExit(f"{photo}: {off:.2g} off what `Tagger` says")

    def put(self, bodies: Sequence[Path], **plan: Any) -> dict[str, Any]:
        """Measure the service under load, and the mean number of photos per batch."""
        kinds = {".json": ("/tags", "application/json"), ".jpg": ("/tags/image", "image/jpeg")}
        path, kind = kinds[bodies[0].suffix]
        plan |= {"address": self.address, "path": path, "type": kind}
        plan["bodies"] = list(map(str, bodies))
        with self._batches() as batches:
            command = [sys.executable, str(Path(__file__).with_name("load.py"))]
            done = subprocess.run(
                command, input=json.dumps(plan), stdout=subprocess.PIPE, text=True, check=True
            )
        return json.loads(done.stdout) | batches

    @contextmanager
    def _batches(self) -> Iterator[dict[str, float]]:
        names = ("mlcrf_batch_images_sum", "mlcrf_batch_images_count")
        before, found = [self.metric(name) for name in names], dict[str, float]()
        yield found
        images, batches = (self.metric(name) - at for name, at in zip(names, before, strict=True))
        found["mean_batch"] = images / batches


def _capacity(
    service: Service, tagger: Tagger, photos: list[Path], place: Path, *, quick: bool
) -> dict[str, Any]:
    """Photos a second offline and served, one a request and several, and what the load costs."""
    many, plan = _in_json(photos, place / "json"), {"warm_s": 0.2 if quick else 3}
    plan["seconds"] = 2 if quick else 12
    list(tagger.predict(photos[:64]))  # compiles the network
    turns: dict[str, list[float]] = {"offline": [], "json": []}
    rows: list[dict[str, Any]] = []
    for _ in range(1 if quick else 3):
        took = seconds_of(lambda: list(tagger.predict(photos)))
        turns["offline"].append(len(photos) / took)
        for number in _CONNECTIONS:
            found = service.put(photos, connections=number, **plan)
            rows.append({"connections": number} | found)
        served = service.put(many, connections=16, **plan)["answered_per_s"]
        turns["json"].append(_TOGETHER * served)
    by_number = [
        [row["answered_per_s"] for row in rows if row["connections"] == number]
        for number in _CONNECTIONS
    ]
    turns["served"] = max(by_number, key=median)  # one number of connections for all turns
    if any(row["statuses"].keys() - {"200"} for row in rows):
        raise SystemExit("the service refused what it could have done")
    return {f"{name}_per_s": median(each) for name, each in turns.items()} | {
        "share": median_ratio(turns["served"], turns["offline"]),
        "json_share": median_ratio(turns["json"], turns["offline"]),
        "generator_ms_per_request": median(row["generator_ms_per_request"] for row in rows),
        "generator_cores": median(row["generator_cores"] for row in rows),
        "turns": turns,
        "closed_loops": rows,
    }


def _in_json(photos: Sequence[Path], folder: Path) -> list[Path]:
    """Bodies of requests of several photos each."""
    folder.mkdir()
    bodies = []
    for start in range(0, len(photos), _TOGETHER):
        data = [base64.b64encode(path.read_bytes()) for path in photos[start : start + _TOGETHER]]
        bodies.append(folder / f"{start}.json")
        images = [{"data": one.decode()} for one in data]
        bodies[-1].write_text(json.dumps({"images": images}), encoding="utf-8")
    return bodies


def _loads(
    service: Service, photos: list[Path], capacity: float, *, quick: bool
) -> Iterator[dict[str, Any]]:
    """Measure open-loop load at shares of the capacity; times in milliseconds."""
    for seed, share in enumerate(LOADS):
        plan: dict[str, Any] = {"warm_s": 0.2 if quick else 5, "seconds": 1 if quick else 60}
        found = service.put(photos, rate=share * capacity, seed=seed, **plan)
        statuses = found.pop("statuses")
        row = {"load": share, "offered_per_s": share * capacity, "statuses": statuses}
        for kind in ("latency", "refused", "health", "late"):
            times = found.pop(f"{kind}_s")
            row |= {f"{kind}_{name}_ms": 1e3 * value for name, value in times.items()}
        refused, given = statuses.get("503", 0), statuses.get("200", 0)
        row |= {"refused": refused, "errors": sum(statuses.values()) - refused - given}
        yield row | found


if __name__ == "__main__":
    main()
