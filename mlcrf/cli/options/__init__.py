"""Options that several commands share, by theme; a command takes `options.NAME` from here."""

from mlcrf.cli.options.data import (
    AnySplit,
    Data,
    LabelSet,
    LabelSetOfRun,
    LimitData,
    ReadingOptions,
    parse_data,
    parse_source,
    show_notes,
    show_reading,
)
from mlcrf.cli.options.decision import (
    CoverageOptions,
    DecisionOptions,
    PromiseOptions,
    make_coverage,
    make_decoder,
    make_promise,
)
from mlcrf.cli.options.grouping import DATA, KNOWN, LABELS, RUNTIME, PanelCommand, grouped
from mlcrf.cli.options.images import Images, Limit, Null, RawPairsOption, Strict
from mlcrf.cli.options.known import KnownOptions, read_evidence
from mlcrf.cli.options.output import Json, Overwrite, Rename, SelectionOptions
from mlcrf.cli.options.runs import Model, RunDirectory, find_both, load_base, load_run
from mlcrf.cli.options.runtime import CacheDir, Engine, RuntimeOptions, cache_dir
from mlcrf.cli.options.scoring import EvaluationOptions, Measures, choose_measures

__all__ = [
    "DATA",
    "KNOWN",
    "LABELS",
    "RUNTIME",
    "AnySplit",
    "CacheDir",
    "CoverageOptions",
    "Data",
    "DecisionOptions",
    "Engine",
    "EvaluationOptions",
    "Images",
    "Json",
    "KnownOptions",
    "LabelSet",
    "LabelSetOfRun",
    "Limit",
    "LimitData",
    "Measures",
    "Model",
    "Null",
    "Overwrite",
    "PanelCommand",
    "PromiseOptions",
    "RawPairsOption",
    "ReadingOptions",
    "Rename",
    "RunDirectory",
    "RuntimeOptions",
    "SelectionOptions",
    "Strict",
    "cache_dir",
    "choose_measures",
    "find_both",
    "grouped",
    "load_base",
    "load_run",
    "make_coverage",
    "make_decoder",
    "make_promise",
    "parse_data",
    "parse_source",
    "read_evidence",
    "show_notes",
    "show_reading",
]
