"""What mlcrf depends on is written down: versions with hashes, and licences that go with ours."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = ("heic", "jxl", "lite", "onnx", "raw", "ray", "review", "s3", "serve")
DIRECT = [Requirement(one) for one in PROJECT["dependencies"]] + [
    Requirement(one) for extra in EXTRAS for one in PROJECT["optional-dependencies"][extra]
]
CONSTRAINTS = (ROOT / "docs" / "constraints.txt").read_text()
PINNED = re.findall(r"^([\w.-]+)==([^\s;]+)[^\n]*\n((?: +--hash=\S+[^\n]*\n)+)", CONSTRAINTS, re.M)
LICENCES = dict(
    re.findall(r"^\| ([\w.-]+) \| (.+) \|$", (ROOT / "docs" / "dependencies.md").read_text(), re.M)
)
PERMISSIVE = {
    *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause"),
    *("BSL-1.0", "CC0-1.0", "ISC", "MIT", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Zlib"),
}


def test_every_package_has_a_version_and_hashes() -> None:
    """Nothing in the file is without them, so that pip takes it with --require-hashes."""
    entries = re.findall(r"^[^\s#].*", CONSTRAINTS, re.M)
    assert len(entries) == len(PINNED) > 50
    for _, _, hashes in PINNED:
        assert re.fullmatch(r"( +--hash=sha256:[0-9a-f]{64}( \\)?\n)+", hashes)


@pytest.mark.parametrize("needed", DIRECT, ids=lambda needed: needed.name)
def test_bounds_have_a_floor_that_the_versions_keep(needed: Requirement) -> None:
    """Each direct dependency has a lower bound, and what is pinned is not below it."""
    assert any(one.operator == ">=" for one in needed.specifier)
    versions = [version for name, version, _ in PINNED if name == needed.name.lower()]
    assert versions and all(needed.specifier.contains(version) for version in versions)


def test_licences_go_with_ours() -> None:
    """All are permissive but for those that docs/dependencies.md names."""
    assert set(LICENCES) - {"package"} == {name for name, _, _ in PINNED}
    others = {
        name: licence
        for name, licence in LICENCES.items()
        if name != "package"
        and not all(part in PERMISSIVE for part in re.split(r" (?:AND|OR) ", licence))
    }
    nvidia = {name for name, licence in others.items() if "NVIDIA" in licence}
    assert all(name.startswith(("nvidia-", "cuda-toolkit")) for name in nvidia)
    assert set(others) - nvidia == {"psycopg", "psycopg-binary"}
