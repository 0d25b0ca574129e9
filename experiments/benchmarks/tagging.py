"""`mlcrf tag --xmp` beside `mlcrf predict` of the same photos.

    make bench-tag [DATA=folder OUT=file.json]

Both are run in turn, in processes of their own, over 5,000 photos, a quarter of them with a title
and keywords of their own. `tag` writes new sidecars each time. The network is converted before.
Photos are `seen`, with their features in the cache, or `new`, without; the latter takes minutes.
Processor time, of all threads and the kernel, says more than time by the clock on a busy machine.
"""

import argparse
import json
import os
import resource
import tempfile
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from timing import describe_machine, median_ratio
from whole_command import run_command, run_predict

from mlcrf.images.listing import walk_images

COUNT, TURNS = 5000, {"seen": 3, "new": 1}
_XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
 xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title><rdf:Alt>
 <rdf:li xml:lang="x-default">Photo {0}</rdf:li></rdf:Alt></dc:title><dc:subject><rdf:Bag>
 <rdf:li>holiday</rdf:li><rdf:li>roll {0}</rdf:li></rdf:Bag></dc:subject>
 </rdf:Description></rdf:RDF></x:xmpmeta>"""


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a line per turn, write the JSON file."""
    options = _parse(arguments)
    count, turns = (60, {"seen": 1}) if options.quick else (COUNT, TURNS)
    kinds = [kind for kind in options.kinds if kind in turns]
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        photos, cache = Path(folder) / "photos", Path(folder) / "cache"
        make_photos(options.data, photos, count)
        run_predict(options.run, photos, cache)
        rows = [measure(options.run, photos, cache, kind, turns[kind]) for kind in kinds]
    machine = describe_machine()
    names = ("mlcrf", "lxml", "openvino", "pillow")
    machine["versions"] |= {name: version(name) for name in names}
    result = machine | {"quick": options.quick, "load_before": load_before, "photos": count}
    result |= {"runs": rows}
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {options.out}")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of photos")
    parser.add_argument("--run", type=Path, default=Path("mirflickr24"), help="run, or a name")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("tagging.json"))
    parser.add_argument("--kinds", nargs="+", choices=TURNS, default=list(TURNS))
    parser.add_argument("--quick", action="store_true", help="60 photos, seen, one turn")
    return parser.parse_args(arguments)


def make_photos(data: Path, folder: Path, count: int) -> None:
    """Copy the first photos of a folder; every fourth JPEG gets a title and keywords."""
    folder.mkdir()
    found = list(islice(walk_images(data), count))
    if len(found) < count:
        raise SystemExit(f"{data}: {len(found)} photos, of {count} that are needed")
    for number, photo in enumerate(found):
        content = photo.read()
        if number % 4 == 0 and content.startswith(b"\xff\xd8"):
            body = b"http://ns.adobe.com/xap/1.0/\0" + _XMP.format(number).encode()
            length = (len(body) + 2).to_bytes(2, "big")
            content = b"".join((content[:2], b"\xff\xe1", length, body, content[2:]))
        (folder / f"{number:05d}{Path(photo.name).suffix}").write_bytes(content)


def measure(run: Path, photos: Path, cache: Path, kind: str, turns: int) -> dict[str, Any]:
    """Return the seconds of both commands in each turn, and how many times longer `tag` takes."""
    seconds: dict[str, list[float]] = {"predict": [], "tag": []}
    processor_s: dict[str, list[float]] = {"predict": [], "tag": []}
    for _ in range(turns):
        for name, taken in seconds.items():
            before = processor_seconds()
            for old in photos.glob("*.xmp"):
                old.unlink()
            for kept in cache.glob("features-*") if kind == "new" else ():
                kept.unlink()
            if name == "tag":
                taken.append(run_command("tag", run, photos, cache, "--xmp").seconds)
            else:
                taken.append(run_predict(run, photos, cache).seconds)
            processor_s[name].append(processor_seconds() - before)
            print(f"{kind}, {name}: {taken[-1]:.1f} s, processor {processor_s[name][-1]:.1f} s")
    return {
        "photos": kind,
        "sidecars": sum(1 for _ in photos.glob("*.xmp")),
        "seconds": seconds,
        "times_longer": median_ratio(seconds["tag"], seconds["predict"]),
        "processor_s": processor_s,
        "times_more_work": median_ratio(processor_s["tag"], processor_s["predict"]),
    }


def processor_seconds() -> float:
    """Return the processor time of all programs that have been run and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
