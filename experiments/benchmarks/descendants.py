"""The processes that one has started: of Ray, to know which are at work."""

from pathlib import Path


def below(root: int) -> dict[int, str]:
    """All processes that one has started, and these in turn; by number how each calls itself."""
    parents, names = {}, {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            status = (place / "stat").read_text(encoding="utf-8", errors="replace")
            names[int(place.name)] = (place / "cmdline").read_bytes().decode("utf-8", "replace")
        except OSError:  # it has just ended
            continue
        parents[int(place.name)] = int(status.rpartition(")")[2].split()[1])

    def is_below(process: int) -> bool:
        while process in parents:
            if (process := parents[process]) == root:
                return True
        return False

    return {process: name for process, name in names.items() if is_below(process)}


def working(root: int) -> list[int]:
    """Return its descendants that are Ray workers busy with a part."""
    return [process for process, name in below(root).items() if name.startswith("ray::Worker.tag")]
