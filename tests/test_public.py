"""The public Python interface, as docs/library.md has it."""

import subprocess
import sys
from pathlib import Path

import mlcrf

PUBLIC = [
    "CalibrationReport",
    "Comparison",
    "Decoder",
    "DriftReport",
    "Evaluation",
    "LabelSpace",
    "Manifest",
    "MlcrfError",
    "MlcrfWarning",
    "MultiLabelCRF",
    "MultiLabelCRFClassifier",
    "Posterior",
    "Potentials",
    "Prediction",
    "Reasons",
    "Rules",
    "Run",
    "Tagger",
    "TaughtReport",
    "TrainReport",
    "TrainSettings",
    "__version__",
    "calibrate",
    "compare",
    "evaluate",
    "extend",
    "find_drift",
    "load_run",
    "read_dataset",
    "read_datasets",
    "train",
]


def test_exactly_these_names_are_exported() -> None:
    """Each is found, has a docstring of its own, and is described in docs/library.md."""
    assert mlcrf.__all__ == PUBLIC == dir(mlcrf)
    page = (Path(__file__).parents[1] / "docs" / "library.md").read_text(encoding="utf-8")
    for name in set(PUBLIC) - {"__version__"}:
        value = getattr(mlcrf, name)
        assert value.__name__ == name
        assert value.__doc__ and "Dict" not in value.__doc__.splitlines()[0]
        assert f"`{name}`" in page, name


def test_importing_is_instant() -> None:
    """Nothing heavy comes with the package itself."""
    code = "import sys, mlcrf; print({'torch', 'pandas', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_inference_brings_torch_and_little_more() -> None:
    """Nothing that only some methods need is imported with the methods."""
    heavy = {"scipy", "networkx", "numba", "pandas", "sklearn", "matplotlib", "PIL"}
    code = f"import sys, mlcrf.inference; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
