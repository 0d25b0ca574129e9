"""Groups of options: a dataclass is a group, and help lists groups in panels."""

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from typer.core import TyperCommand

from mlcrf.cli.mistakes import (
    UsageError,
    explain,
    refuse_idle_label_set,
    refuse_idle_options,
    refuse_replacing_inputs,
)

DATA = "Data"
KNOWN = "Known labels"
DECISION = "Decision"
LABELS = "Labels to write"
RUNTIME = "Runtime"

named_options: ContextVar[frozenset[str]] = ContextVar(
    "named_options", default=frozenset()
)  # of the command at work


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Expand parameters whose type is a dataclass into one option per field.

    The command is called with an instance of each dataclass. Its `panel`, if it has one, is that of
    the options that name none.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type[Any]] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        kind = hints[name]
        if is_dataclass(kind) and isinstance(kind, type):
            groups[name] = kind
            own = get_type_hints(kind, include_extras=True)
            if panel := getattr(kind, "panel", None):
                for one in fields(kind):
                    info = own[one.name].__metadata__[0]
                    info.rich_help_panel = info.rich_help_panel or panel
            parameters += [
                inspect.Parameter(
                    one.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=one.default,
                    annotation=own[one.name],
                )
                for one in fields(kind)
            ]
        else:
            only = inspect.Parameter.KEYWORD_ONLY
            parameters.append(parameter.replace(annotation=hints[name], kind=only))

    @functools.wraps(command)
    def call(**values: Any) -> None:
        for name, kind in groups.items():
            values[name] = kind(**{one.name: values.pop(one.name) for one in fields(kind)})
        command(**values)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {one.name: one.annotation for one in parameters}
    return call


class PanelCommand(TyperCommand):
    """A command whose help lists options in panels, as plain text, and that explains mistakes."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            rest = super().parse_args(ctx, args)
            sources = {name: ctx.get_parameter_source(name) for name in ctx.params}
            named = (name for name, one in sources.items() if one and one.name == "COMMANDLINE")
            named_options.set(frozenset(named))
            refuse_idle_options(self.name, named_options.get())
            if "label_set" in named_options.get():
                refuse_idle_label_set(ctx.params)
            if self.name != "convert":  # which has read its table before it writes
                refuse_replacing_inputs(ctx.params)
            return rest
        except UsageError as error:
            explain(error, self, ctx)
            raise

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                is_argument = parameter.param_type_name == "argument"
                panel = getattr(parameter, "rich_help_panel", None) or "Options"
                panels.setdefault("Arguments" if is_argument else panel, []).append(record)
        panels[RUNTIME] = panels.pop(RUNTIME, [])  # last
        for title, records in panels.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
