"""Keep the command of a run, and make the command of a run that is repeated."""

import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcrf.cli import console
from mlcrf.errors import SettingsError
from mlcrf.hints import did_you_mean

if TYPE_CHECKING:
    from mlcrf.checkpoint import Provenance
    from mlcrf.data.manifest import Manifest

_PATHS = ("data", "map", "labels", "rules", "image_root")
_OWN = {  # options of the new run alone
    *("out", "config", "set_", "resume", "overwrite", "verbose", "as_json"),
    *("cache_dir", "in_memory", "log_to"),
}
_PASSWORD = re.compile(r"(://[^:/@\s]+):[^@\s]*@")


def find_config(words: Sequence[str]) -> Path | None:
    """Return the file that the words of a command give to --config."""
    given = list(words[: words.index("--")] if "--" in words else words)
    for at, word in enumerate(given):
        option, sign, value = word.partition("=")
        found = value if sign else "".join(given[at + 1 : at + 2])
        if option == "--config" and found:
            return Path(found)
    return None


def recorded_options(config: Path, known: Sequence[str]) -> dict[str, Any]:
    """Return the options about data of the run with this config.json; none of a file of settings.

    Args:
        known: names of the options that exist.

    Raises:
        SettingsError: the file cannot be read, or has options that are unknown or no options.
    """
    from mlcrf.config import load_json
    from mlcrf.shipped_models import find_model

    folder = find_model(config)
    if folder.is_dir():
        raise SettingsError(
            f"{config}: is a run or folder, expected a file of settings: --config "
            f"{folder / 'config.json'}"
        )

    made_by = load_json(config).get("made_by", {})
    options = made_by.get("options", {}) if isinstance(made_by, dict) else None
    if not isinstance(options, dict):
        raise SettingsError(f"{config}: made_by: expected an object with the options of a run")
    for name, value in options.items():
        if name not in known:
            raise SettingsError(
                f"{config}: made_by: unknown option {name!r}{did_you_mean(name, known)}"
            )
        if not isinstance(value, str | int | float | list):
            raise SettingsError(f"{config}: made_by: {name}: expected text, got {value!r}")
    return options


def provenance(parameters: Sequence[Any], values: dict[str, Any]) -> "Provenance":
    """Return the command as typed, and its options about data; passwords are left out."""
    from mlcrf.checkpoint import Provenance

    options = {}
    for one in parameters:
        value = values.get(one.name)
        if one.name not in _OWN and value and value != one.default:
            options[one.name] = _recorded(one.name, value)
    command = shlex.join(["mlcrf", *sys.argv[1:]])
    return Provenance(_without_password(command), options)


def note_changes(config: Path, manifest: "Manifest") -> None:
    """Print a note if the data are not those of the run with this config.json."""
    from mlcrf.training.repetition import describe_changes, digest_data

    before = json.loads(config.read_text(encoding="utf-8")).get("made_by", {}).get("data_sha256")
    if before and before != digest_data(manifest):
        changes = describe_changes(manifest, config.parent)
        console.note(
            f"the data have changed since {config.parent} was made ({changes}); this run differs"
        )


def _recorded(name: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_recorded(name, one) for one in value]
    if isinstance(value, Enum):
        return value.value
    if name in ("hints", "lists"):
        value = _absolute_table(name, str(value))
    if name == "from_review":
        scheme, sign, file = str(value).rpartition("sqlite:///")
        if sign or "://" not in str(value):
            return f"{scheme}{sign}{os.path.abspath(file)}"  # noqa: PTH100 - links are kept
        return _without_password(str(value))
    is_path = name in _PATHS or (name == "model" and Path(value).exists())  # or a model's name
    if is_path and "://" not in str(value):
        return os.path.abspath(value)  # noqa: PTH100 - links are kept
    return value if isinstance(value, int | float) else _without_password(str(value))


def _absolute_table(name: str, text: str) -> str:
    """Return `[NAME=]TABLE` of --hints, or `TABLE=positives` of --lists, with an absolute path."""
    if "://" in text or (name == "lists" and "/" not in text):  # a file name alone is found anyway
        return text
    before, sign, table = text.rpartition("=") if name == "hints" else ("", "", text)
    return f"{before}{sign}{os.path.abspath(table)}"  # noqa: PTH100 - links are kept


def _without_password(text: str) -> str:
    return _PASSWORD.sub(r"\1@", text)
