"""How far this library is from the stored numbers of the published implementation.

Runs the golden tests and keeps, for every array they compare, the largest difference and the
tolerance: ten times the difference between float32 and float64 of the published code itself. Prints
the rows of docs/parity.md: for every stored file the array that comes nearest to its tolerance. The
programs are compiled as users' are; the test suite itself leaves most optimizations out.

Command: python -m benchmarks.parity
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.reporting.record import record

ROOT = Path(__file__).parents[1]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.jsonl"
        command = [sys.executable, "-m", "pytest", "-q", "tests/golden"]
        environment = os.environ | {
            "GOLDEN_REPORT": str(report),
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "false",
            # XLA's own settings, named so that tests/conftest.py leaves them alone.
            "XLA_FLAGS": "--xla_cpu_use_fusion_emitters=true "
            "--xla_cpu_parallel_codegen_split_count=32",
        }
        done = subprocess.run(command, cwd=ROOT, env=environment)
        found = [json.loads(line) for line in report.read_text().splitlines()]
    arrays: dict[str, dict[str, list[float]]] = {}
    for one in found:
        of_file = arrays.setdefault(one["file"], {})
        worst = max(one["worst"], of_file.get(one["array"], [0.0])[0])
        of_file[one["array"]] = [worst, one["allowed"]]
    record(ROOT / "docs" / "results" / "parity.json", {"difference, allowed": arrays})
    for name, of_file in sorted(arrays.items()):
        nearest = max(of_file, key=lambda key: of_file[key][0] / max(of_file[key][1], 1e-300))
        worst, allowed = of_file[nearest]
        print(f"| `{name}` | {len(of_file)} | `{nearest}` | {worst:.1e} | {allowed:.1e} |")
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
