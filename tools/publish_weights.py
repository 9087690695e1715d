"""Copies the exported weights of a training run to where they are shipped, and completes the card.

The card gets the command and the time of training; paths of this machine are taken out of its
configuration.

Command: python tools/publish_weights.py --run-dir runs/fashion_mnist_prior \
    --out pretrained/fashion_mnist/prior --command "python train.py configs/fashion_mnist_prior.py"
"""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavps_jax.config import cli
from lavps_jax.io.own_folders import write_directory
from lavps_jax.io.storage import on_disk
from lavps_jax.io.strict_json import to_text
from lavps_jax.runs.loading import load_network


@dataclass(frozen=True)
class Config:
    """What to publish, and where."""

    run_dir: str
    """Folder of the training run."""
    out: str
    """Folder to make."""
    command: str
    """The command that trained the weights."""
    overwrite: bool = False
    """Replace `out`, if it holds weights as this program wrote them."""


def training_minutes(run_dir: Path, batch_size: int) -> float:
    """Time of the training steps, from the speeds in the log; repeated steps count once."""
    seconds, last = 0.0, 0
    with (run_dir / "log.csv").open(newline="") as file:
        for step, name, value in list(csv.reader(file))[1:]:
            if name == "images_per_second":
                seconds += (int(step) - last) * batch_size / float(value)
                last = int(step)
    return seconds / 60


def without_paths(stored: Any, run_name: str) -> Any:
    """The stored configuration without paths of this machine."""
    if isinstance(stored, list):
        return [without_paths(item, run_name) for item in stored]
    if isinstance(stored, str) and Path(stored).is_absolute():
        return Path(stored).name
    if not isinstance(stored, dict):
        return stored
    fixed = {"data_dir": None, "run_dir": f"runs/{run_name}"}
    return {key: fixed.get(key, without_paths(value, run_name)) for key, value in stored.items()}


def main(arguments: list[str]) -> None:
    config = cli.from_flags(Config, arguments, prog="python tools/publish_weights.py")
    run_dir = on_disk(config.run_dir, "run_dir")
    trained: Any = load_network(str(run_dir / "weights"))[2]
    with write_directory(config.out, "weights", overwrite=config.overwrite) as folder:
        shutil.copytree(run_dir / "weights", folder, dirs_exist_ok=True)
        card = json.loads((folder / "card.json").read_text())
        card |= {
            "config": without_paths(card["config"], Path(config.out).name),
            "command": config.command,
            "training_minutes": round(training_minutes(run_dir, trained.batch_size), 1),
        }
        (folder / "card.json").write_text(to_text(card))
    load_network(config.out)  # Reads and verifies what was published.
    print(config.out)


if __name__ == "__main__":
    cli.main(main)
