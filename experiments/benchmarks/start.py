"""Measure how long commands take to start: processor time of the whole process, and wall time.

    python experiments/benchmarks/start.py [--out file.json]

One photo with the model that comes with mlcrf: once its features are kept, and once only the
converted network is; beside what is missing, and `import torch`. Medians of seven.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from PIL import Image
from timing import describe_machine

TURNS = 7


def measure(words: list[str], place: Path) -> tuple[float, float]:
    """Return processor and wall seconds of a command of Python."""
    before, began = os.times(), perf_counter()
    subprocess.run([sys.executable, *words], cwd=place, capture_output=True, check=False)
    wall, after = perf_counter() - began, os.times()
    processor = after.children_user + after.children_system
    return processor - before.children_user - before.children_system, wall


def main() -> None:
    """Measure all cases in turn, and print and keep the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    program = ["-m", "mlcrf"]
    predict = [*program, "predict", "photos", "--out", "tags.csv", "--overwrite"]
    cases = {
        "import torch": ["-c", "import torch"],
        "mlcrf --help": [*program, "--help"],
        "mlcrf models": [*program, "models"],
        "mlcrf predict, no such folder": [*program, "predict", "none", "--out", "tags.csv"],
        "mlcrf predict, features kept": [*predict, "--cache-dir", "kept"],
        "mlcrf predict, a new photo": [*predict, "--cache-dir", "kept"],
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "photos").mkdir()
        photo = place / "photos" / "photo.png"
        for turn in range(-1, TURNS):  # the first converts the network
            for case, words in cases.items():
                if turn < 0 or case.endswith("new photo"):
                    Image.new("RGB", (320, 240), (turn + 10, 20, len(case))).save(photo)
                figures = measure(words, place)
                if turn >= 0:
                    found[case].append(figures)
    torch = statistics.median(one for one, _ in found["import torch"])
    rows = []
    for case, figures in found.items():
        processor, wall = (statistics.median(one) for one in zip(*figures, strict=True))
        rows.append({"case": case, "processor_s": processor, "wall_s": wall})
        print(
            f"{case}: {processor:.2f} s of processor time ({processor / torch:.2f}), {wall:.2f} s"
        )
    if arguments.out is not None:
        record = {"machine": describe_machine(), "rows": rows}
        arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
