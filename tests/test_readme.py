"""The Python code of the documents runs, as a reader would run it, and what it prints holds."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from environments import with_the_compilers_own_flags

ROOT = Path(__file__).parents[1]


def numbers(line: str) -> list[float]:
    return [float(one) for one in re.findall(r"-?\d+(?:\.\d+)?", line.partition(": ")[2])]


@pytest.mark.parametrize(
    "document,count,num_samples",
    [("README.md", 2, 4), ("docs/operators.md", 2, 2), ("docs/samplers.md", 1, 2)],
)
def test_code_runs_and_restores(document, count, num_samples):
    """What comes out is better than what y gives by itself, and fits y as the true image does."""
    text = (ROOT / document).read_text()
    code = re.findall(r"^```python\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    assert len(code) == count
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        env=with_the_compilers_own_flags(),
    )
    assert done.returncode == 0, done.stderr
    first, *samples = done.stdout.splitlines()
    naive, low, high = numbers(first)
    assert len(samples) == num_samples
    for line in samples:
        decibels, chi2 = numbers(line)
        assert decibels > naive + 5 and low < chi2 < high, done.stdout
    if document == "README.md":  # As it says, up to the rounding of another machine.
        told = re.findall(r"^```\n(y: .*?)```", text, re.DOTALL | re.MULTILINE)
        for line, printed in zip(told[0].splitlines(), done.stdout.splitlines(), strict=True):
            for one, other in zip(numbers(line), numbers(printed), strict=True):
                assert one == pytest.approx(other, rel=0.03)


@pytest.mark.parametrize(
    "document", ["README.md", *(f"docs/{path.name}" for path in sorted(ROOT.glob("docs/*.md")))]
)
def test_documents_name_files_that_exist(document):
    text = (ROOT / document).read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert ((ROOT / document).parent / target).exists(), target
