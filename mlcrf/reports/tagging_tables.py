"""Format the numbers of tagged images, and of files beside them, as text and JSON."""

from mlcrf.hints import counted
from mlcrf.images import LeftOut
from mlcrf.prediction import Action, PhotoFileSet, PredictionWriter
from mlcrf.reports.text import to_json


def format_predictions(
    writer: PredictionWriter,
    left_out: LeftOut | None = None,
    *,
    of_all_shards: bool = False,
    what: str = "photo",
) -> str:
    """Format the numbers of tagged photos, of files beside them, and of what was left out.

    Args:
        of_all_shards: the walk was that of all shards, and the photos are those of one.
        what: name of what was tagged.
    """
    table = f": {writer.path}" if writer.path else ""
    failed = f"; {writer.failed} with errors" if writer.failed else ""
    if failed and writer.errors_path:
        failed += f", see {writer.errors_path}"
    return "\n".join(
        [
            f"{counted(writer.written, what)} tagged{table}{failed}",
            *format_photo_files(writer.photo_files),
            *format_left_out(left_out, of_all_shards=of_all_shards),
        ]
    )


def predictions_record(
    writer: PredictionWriter, left_out: LeftOut | None = None, *, of_all_shards: bool = False
) -> str:
    """Return the same content as one JSON object."""
    key = "left_out_of_all_shards" if of_all_shards else "left_out"
    errors = str(writer.errors_path) if writer.failed and writer.errors_path else None
    return to_json(
        {
            "tagged": writer.written,
            "failed": writer.failed,
            "out": str(writer.path) if writer.path else None,
            "errors": errors,
            **photo_files_record(writer.photo_files),
            **({} if left_out is None else {key: left_out.record()}),
        }
    )


def format_undone(photo_files: PhotoFileSet, failed: int, left_out: LeftOut) -> str:
    """Format the number of files by kind and action, and what was left out."""
    return "\n".join(
        [
            *format_photo_files(photo_files),
            *([f"{failed} with errors"] if failed else []),
            *format_left_out(left_out),
        ]
    )


def undone_record(photo_files: PhotoFileSet, failed: int, left_out: LeftOut) -> str:
    """Return the same content as one JSON object."""
    counts = photo_files_record(photo_files)
    return to_json({"failed": failed, **counts, "left_out": left_out.record()})


def format_left_out(left_out: LeftOut | None, *, of_all_shards: bool = False) -> list[str]:
    """Return a line that counts what a walk has left out, if anything."""
    return [f"left out{' of all shards' if of_all_shards else ''}: {left_out}"] if left_out else []


def format_photo_files(photo_files: PhotoFileSet) -> list[str]:
    """Return a line for each kind of file beside photos, with the number of files by action."""
    return [
        f"{kind}: " + (", ".join(f"{count} {fate}" for fate, count in fates.items()) or "none")
        for kind, fates in photo_files_record(photo_files).items()
    ]


def photo_files_record(photo_files: PhotoFileSet) -> dict[str, dict[str, int]]:
    """Count files by kind and action."""
    return {
        kind: {fate.value: counts[fate] for fate in Action if counts[fate] and fate != Action.NONE}
        for kind, counts in photo_files.counts.items()
    }
