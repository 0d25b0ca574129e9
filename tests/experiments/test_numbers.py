"""Data sets of numbers: both forms of rows, nominal features, labels anywhere among the columns."""

from pathlib import Path

import numpy as np
import pytest

from experiments.numbers import read_numbers

HEAD = """@relation drawn

@attribute size numeric
@attribute 'Stellar\\'s Jay' {0,1}
@attribute colour {red, green,blue}
@attribute night {0,1}
@data
"""
ROWS = {
    "dense": ["1.5,1,blue,0", "0,0,red,1", "-2e1,1,green,0"],
    "sparse": ["{0 1.5, 1 1, 2 blue}", "{3 1}", "{0 -2e1,1 1,2 green}"],
}


@pytest.mark.parametrize("form", ROWS)
def test_rows_of_both_forms(form: str, tmp_path: Path) -> None:
    """A sparse row leaves out zeros and first values; labels have the order of the XML file."""
    (tmp_path / "birds.xml").write_text(
        '<labels xmlns="http://mulan.sourceforge.net/labels">\n<label name="night"></label>\n'
        '<label name="Stellar\'s Jay"></label>\n</labels>\n'
    )
    for part, rows in (("train", ROWS[form]), ("test", ROWS[form][1:])):
        (tmp_path / f"birds-{part}.arff").write_text(HEAD + "\n".join(rows) + "\n")
    data = read_numbers(tmp_path, "birds")
    assert list(data.labels) == ["night", "Stellar's Jay"]
    features, targets = data.train
    assert features.dtype == np.float32
    assert features.tolist() == [[1.5, 0, 1], [0, 0, 0], [-20, 1, 0]]
    assert targets.tolist() == [[0, 1], [1, 0], [0, 1]]
    assert np.array_equal(data.test[1], targets[1:])
