"""`mlcrf predict --cluster ray` beside the same command without it, and with a worker killed.

    make bench-cluster [DATA=folder OUT=file.json]

Of 3,000 photos 40 are cut off. The command runs three times, on the same cores, the network
converted before and no features kept: plain, on Ray started for it, and so that one worker is
killed while it works. Each has to give every photo one row or one reported error; the run ends if
one has neither or two, or if a label differs.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from descendants import working
from timing import describe_machine

from mlcrf.images.listing import walk_images

COUNT, BROKEN = 3000, 40


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a line a run, write the JSON file."""
    options = _parse(arguments)
    if options.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
        torch.set_num_threads(options.cores)
    count, broken = (120, 4) if options.quick else (COUNT, BROKEN)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        photos = make_photos(options.data, work / "photos", count, broken)
        run_predict(options.run, photos, work / "network.csv", "--limit", "2")
        for name in ("plain", "ray", "killed"):
            more = () if name == "plain" else ("--cluster", "ray")
            kill = name == "killed"
            row = run_predict(options.run, photos, work / f"{name}.csv", *more, kill=kill)
            row |= compare(photos, work / "plain.csv", work / f"{name}.csv")
            rows.append({"run": name, **row})
            print(json.dumps(rows[-1]), flush=True)
    result = describe_machine()
    result["versions"] |= {name: version(name) for name in ("mlcrf", "openvino", "ray")}
    result |= {"quick": options.quick, "photos": count, "broken": broken, "runs": rows}
    result |= {"overhead": rows[1]["seconds"] / rows[0]["seconds"]}
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"overhead of Ray: {result['overhead']:.2f} times the plain run\nwrote {options.out}")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of photos")
    parser.add_argument("--run", default="mirflickr24", help="run, or a model's name")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("cluster.json"))
    parser.add_argument("--cores", type=int, help="to run on; all if not given")
    parser.add_argument("--quick", action="store_true", help="120 photos, 4 of them broken")
    return parser.parse_args(arguments)


def make_photos(data: Path, folder: Path, count: int, broken: int) -> Path:
    """The first photos of a folder, some cut off after 200 bytes."""
    folder.mkdir()
    found = list(islice(walk_images(data), count))
    if len(found) < count:
        raise SystemExit(f"{data}: {len(found)} photos, of {count} that are needed")
    for at, photo in enumerate(found):
        content = photo.read()
        is_broken = at % (count // broken) == 0
        (folder / f"{at:05d}.jpg").write_bytes(content[:200] if is_broken else content)
    return folder


def run_predict(
    run: str, photos: Path, table: Path, *more: str, kill: bool = False
) -> dict[str, Any]:
    """The command in a process of its own, and its seconds from start to end; no features kept."""
    cache = table.with_name("cache")
    for kept in cache.glob("features-*"):
        kept.unlink()
    command = [sys.executable, "-m", "mlcrf", "predict", str(photos), "--model", run]
    command += ["--out", str(table), "--cache-dir", str(cache), *more]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    killed = kill and kill_worker(process)
    if process.wait():
        raise SystemExit(f"{' '.join(command)} failed")
    seconds = time.perf_counter() - began
    if kill and not killed:
        raise SystemExit("it ended before a worker could be killed")
    return {"seconds": seconds, "killed": int(killed)}


def kill_worker(program: "subprocess.Popen[bytes]") -> bool:
    """Kill a worker of Ray a few seconds after it has begun with a chunk."""
    while program.poll() is None:
        if at_work := working(program.pid):
            time.sleep(5)
            os.kill(at_work[0], signal.SIGKILL)
            return True
        time.sleep(0.05)
    return False


def compare(photos: Path, plain: Path, table: Path) -> dict[str, Any]:
    """Return the numbers of rows and errors, after checking that each photo has one of them.

    And the largest difference of a probability from the plain run's.
    """
    rows, expected = pd.read_csv(table), pd.read_csv(plain)
    errors = pd.read_csv(table.with_suffix(".errors.csv"))
    named = sorted([*rows["image"], *errors["image"]])
    if named != sorted(map(str, photos.iterdir())):
        raise SystemExit(f"{table}: a photo has no row and no error, or more than one")
    if list(rows["image"]) != list(expected["image"]):
        raise SystemExit(f"{table}: rows are in another order")
    if not rows["labels"].equals(expected["labels"]):
        raise SystemExit(f"{table}: other labels")
    scores = [name for name in rows.columns if name not in ("image", "labels")]
    apart = float((rows[scores] - expected[scores]).abs().to_numpy().max())
    return {"rows": len(rows), "errors": len(errors), "largest_difference": apart}


if __name__ == "__main__":
    main()
