"""Mistakes in the words of a command, and what was probably meant."""

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mlcrf.errors import MlcrfError
from mlcrf.hints import choose, did_you_mean, expected

if TYPE_CHECKING:
    from mlcrf.checkpoint import Run

# why a command has not got an option that others have
_WHY_NOT = {
    ("tag", "--coverage"): "a keyword is there or not, and a family of label sets leaves labels "
    "open; write families by `mlcrf predict --coverage`, or sure keywords with --precision",
    ("review", "--coverage"): "families of label sets are promised for photos of which nothing is "
    "known, and answers make something known; write them by `mlcrf predict --coverage`, or mark "
    "sure tags with --precision",
}
_RUN = {"run", "runs", "model"}  # names of a run as the first argument
_FOR = {  # command -> option -> those without which it does nothing
    "tag": {"replace_txt": ("txt",), "parent": ("xmp", "embed"), "sidecar_name": ("xmp",)},
}
_OUTPUTS = ("out", "matrix_csv", "corrected", "onnx")
_DATA = ("data", "what", "images")
UsageError: Any = typer.BadParameter.__mro__[1]  # of click, or of typer's copy of it


def explain(error: Any, command: Any, context: Any) -> None:
    """Say in a usage error what was probably meant, in place."""
    fault = next(iter(error.__cause__.errors()), None) if _is_invalid(error) else None
    if fault is not None:
        error.message = _explain_value(error.param, fault["input"])
    elif hasattr(error, "option_name") and hasattr(error, "possibilities"):
        error.possibilities = None
        error.message = _explain_option(error.option_name, command, context)
    elif "unexpected extra argument" in error.message:
        extra = error.message.partition("(s) (")[2].removesuffix(")")
        takes = "--model" in _options(command, context) and is_run(extra)
        hint = f"; it is a run: --model {extra}" if takes else ""
        error.message = f"one argument too many: {extra}{hint}"


def _is_invalid(error: Any) -> bool:
    """Return whether a value was refused by pydantic, which newer versions of typer use."""
    return hasattr(error.__cause__, "errors") and getattr(error, "param", None) is not None


def _explain_value(parameter: Any, given: Any) -> str:
    """Return what an option accepts, and what was given."""
    described = parameter.type_descriptor
    kind, info = described.annotation, described.parameter_info
    if described.choices is not None:
        return choose(given, type(described.choices[0]))
    return f"expected {expected(kind, ge=info.min, le=info.max)}, got {given!r}"


def _explain_option(name: str, command: Any, context: Any) -> str:
    """Return where an option belongs that the command does not have, or the closest option."""
    told = f"no such option {name}"
    own = _options(command, context)
    others = context.find_root().command.commands.values()
    having: dict[str, list[str]] = {}
    for other in others:
        for option in _options(other, context) if not other.hidden else ():
            if option not in own:
                having.setdefault(option, []).append(other.name)
    if command.name == "train":
        from mlcrf.config import TrainSettings

        setting = name.removeprefix("--").replace("-", "_")
        if setting in TrainSettings.model_fields:
            return f"{told}; it is a setting: --set {setting}=VALUE"
    if (command.name, name) in _WHY_NOT:
        return f"{told} here: {_WHY_NOT[command.name, name]}"
    places = [one.name for one in command.params if one.param_type_name == "argument"]
    wanted = name.removeprefix("--")
    is_run = wanted in _RUN and not _RUN.isdisjoint(places[:1])
    if is_run or wanted in places:
        words = " ".join(map(str.upper, places))
        return f"{told}: it goes without a name, in its place: mlcrf {command.name} {words}"
    if name in having:
        return f"{told} here; it is an option of {_commands(having[name])}"
    close = did_you_mean(name, [*own, *having])
    meant = close.split("'")[1] if close else ""
    where = f" That is an option of {_commands(having[meant])}." if meant in having else ""
    return f"{told}{close}{where}"


def _commands(names: list[str]) -> str:
    return ", ".join(f"`mlcrf {name}`" for name in names[:3])


def _options(command: Any, context: Any) -> list[str]:
    """Return the names of all options of a command."""
    parameters = command.get_params(context)
    return [
        option
        for one in parameters
        if one.param_type_name == "option"
        for option in (*one.opts, *one.secondary_opts)
        if option.startswith("--")
    ]


def refuse_idle_options(command: str | None, given: Collection[str]) -> None:
    """Refuse options that do nothing without another one.

    Args:
        given: names of the parameters that the user typed.

    Raises:
        BadParameter: one is given without any that it is for.
    """
    for option, others in _FOR.get(command or "", {}).items():
        if option in given and not any(one in given for one in others):
            words = " or ".join(f"--{one}" for one in others)
            raise typer.BadParameter(f"--{option.replace('_', '-')} is for {words}; give both")


def refuse_idle_label_set(parameters: Mapping[str, Any]) -> None:
    """Refuse --label-set for data other than MIRFLICKR's, which alone have sets of labels.

    Raises:
        BadParameter: none of the data is a folder of MIRFLICKR.
    """
    from mlcrf.data.readers.mirflickr import is_mirflickr

    places = [one for name in _DATA for one in _texts(parameters.get(name))]
    if places and not any(Path(one).is_dir() and is_mirflickr(Path(one)) for one in places):
        raise typer.BadParameter(
            f"--label-set is for a folder of MIRFLICKR, and {places[0]} is none; leave it out"
        )


def refuse_replacing_inputs(parameters: Mapping[str, Any]) -> None:
    """Refuse to write to a file that the command also reads, such as the table of the labels.

    Args:
        parameters: values by the names of parameters.

    Raises:
        BadParameter: names both parameters.
    """
    for output in _OUTPUTS:
        for out in _texts(parameters.get(output)):
            for name, value in parameters.items():
                if name not in _OUTPUTS and any(_is_same_file(out, one) for one in _texts(value)):
                    raise typer.BadParameter(
                        f"--{output.replace('_', '-')} {out} would replace what the command reads; "
                        "choose another file"
                    )


def _texts(value: Any) -> list[str]:
    """Return the texts and paths of a parameter's value; of NAME=TABLE also the table."""
    values = value if isinstance(value, list | tuple) else [value]
    texts = [str(one) for one in values if isinstance(one, str | Path)]
    return [*texts, *(one.partition("=")[2] for one in texts if "=" in one)]


def _is_same_file(one: str, other: str) -> bool:
    try:
        return Path(one).is_file() and Path(one).samefile(other)
    except (OSError, ValueError):  # no such file, or no name of one
        return False


def is_run(place: str | Path) -> bool:
    """Return whether a place is a run directory, or the name of a model that comes with mlcrf."""
    from mlcrf.shipped_models import find_model

    folder = find_model(Path(place))
    names = ("config.json", "labels.txt")
    return all(os.path.isfile(folder / name) for name in names)  # noqa: PTH113 - where none may look


def refuse_swapped(run: Path, data: str, command: str) -> None:
    """Refuse a run in the place of data.

    Raises:
        MlcrfError: says how to write the command.
    """
    if not is_run(data):
        return
    if is_run(run):
        raise MlcrfError(f"{data} is a run; expected data: mlcrf {command} {run} DATA")
    raise MlcrfError(
        f"{data} is a run and {run} is not; expected the run first: mlcrf {command} {data} {run}"
    )


def refuse_run(place: str | Path, wanted: str, remedy: str) -> None:
    """Refuse a run in the place of something else.

    Raises:
        MlcrfError: names both.
    """
    if is_run(place):
        raise MlcrfError(f"{place} is a run; expected {wanted}. {remedy}")


def require_images(run: "Run", command: str) -> None:
    """Refuse a run that learned from a table of numbers, for a command that needs pixels.

    Raises:
        MlcrfError: says what such a run is for.
    """
    if run.backbone_spec.features:
        raise MlcrfError(
            f"{run.path} learned from a table of numbers, and `mlcrf {command}` needs images; for "
            f"predictions: mlcrf predict TABLE --model {run.path} --out tags.csv"
        )


def refuse_runs(images: Iterable[str], command: str) -> None:
    """Refuse runs among images.

    Raises:
        MlcrfError: names the first, and the option that takes it.
    """
    for place in images:
        refuse_run(place, "images", f"Name it so: mlcrf {command} IMAGES --model {place}")


def refuse_tables(images: Iterable[str], command: str) -> None:
    """Refuse tables among images.

    Raises:
        MlcrfError: names the first, and the option that takes it.
    """
    for place in images:
        if place.lower().endswith((".arff", ".libsvm", ".safetensors", ".svm", ".svmlight")):
            raise MlcrfError(
                f"{place} is a table of numbers; expected images, or --model RUN of a run that "
                "learned from such a table"
            )
        if place.lower().endswith((".csv", ".tsv", ".jsonl")):
            takes = "known labels: --known" if command == "predict" else "labels to write: --from"
            raise MlcrfError(f"{place} is a table; expected images. For a table of {takes} {place}")
