"""Configurations of the two programs: plain frozen data, and the presets that hold them."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from etils import epy

from lavps_jax import data, networks, operators
from lavps_jax.config.samplers import AnySampler
from lavps_jax.config.tasks import AmortizedTask, OneStepTask, PriorTask, SupervisedTask
from lavps_jax.data import DataConfig
from lavps_jax.data.value_range import ValueRange, check_value_range
from lavps_jax.diffusion.parameterisations import EDM, VE, VP, Flow
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import (
    UserError,
    check_at_least,
    check_at_most,
    check_choices,
    check_positive,
    check_seed,
    did_you_mean,
)
from lavps_jax.io.shipped import ROOT, shipped
from lavps_jax.networks import ComputeDtype, Remat
from lavps_jax.operators.families import OperatorFamily
from lavps_jax.operators.families.base import Family
from lavps_jax.problems.poisson import LARGEST_PEAK
from lavps_jax.samplers import Inner

with epy.lazy_imports():  # Only a command line needs it, and it takes long to import.
    import tyro


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warm-up, gradient clipping and an average of the weights."""

    peak_lr: float = 1e-3
    """Learning rate after the warm-up, > 0."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """After the warm-up: constant, or a cosine down to zero at the last step."""
    warmup_steps: int = 200
    """Steps over which the learning rate rises from zero, >= 0."""
    weight_decay: float = 0.0
    """Of AdamW, >= 0; biases and scales decay too, buffers do not."""
    clip_norm: float = 1.0
    """Gradients of a larger global norm are scaled down to it, > 0."""
    ema_decay: float = 0.999
    """Decay of the average of the weights, in [0, 1)."""

    def __post_init__(self):
        check_choices(self)
        check_positive("optimizer.peak_lr", self.peak_lr)
        check_positive("optimizer.clip_norm", self.clip_norm)
        check_at_least("optimizer.warmup_steps", self.warmup_steps, 0)
        check_at_least("optimizer.weight_decay", self.weight_decay, 0)
        if not 0 <= self.ema_decay < 1:
            raise UserError("optimizer.ema_decay", self.ema_decay, "use a number in [0, 1)")


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    task: PriorTask | AmortizedTask | SupervisedTask | OneStepTask
    train_data: DataConfig
    validation_data: DataConfig
    run_dir: str
    """Folder of the run, on disk or gs://: checkpoints, log, exported weights."""
    batch_size: int = 32
    """Images per step."""
    num_train_steps: int = 10_000
    """Steps of the whole run; one with a constant schedule can go on to a larger number."""
    optimizer: OptimizerConfig = OptimizerConfig()
    initial_weights: str | None = None
    """Folder of exported weights of the same network, on disk or gs://, or the name of shipped
    ones, that training begins with; None draws fresh ones. A run that goes on needs none."""
    schedule: Schedule = Schedule()
    seed: int = 0
    """Of the initial weights, the order of images, and all random draws."""
    log_every: int = 50
    """Steps between lines of the log."""
    validate_every: int = 1000
    """Steps between validations; at the same time weights are exported, to the folder "weights",
    and to "best" if no loss before was as low."""
    num_validation_images: int = 128
    """The first ones of `validation_data`."""
    checkpoint_every: int = 500
    """Steps between checkpoints, from which an interrupted run goes on."""
    keep_last: int = 2
    """Number of checkpoints to keep."""
    max_skipped_steps: int = 10
    """Steps with a loss or gradient that is not finite that a run may skip; one more stops it."""
    export_dtype: Literal["float32", "float16"] = "float32"
    """In which exported weights are stored."""
    num_microbatches: int = 1
    """Parts of a batch that are computed one after the other, to need less memory."""
    fsdp: int = 1
    """Devices that share one copy of the weights, to need less memory; it divides their number."""
    compute_dtype: ComputeDtype = "float32"
    """In which the networks compute; weights and moments of the optimizer are always float32."""
    remat: Remat = "nothing"
    """What the backward pass computes again, to need less memory: nothing, or the layers."""
    coordinator: str | None = None
    """host:port of process 0 of several; None asks SLURM, Open MPI, Kubernetes or the TPU."""
    process_index: int | None = None
    """Which of several processes this is, from 0."""
    process_count: int | None = None
    """How many processes there are."""

    def __post_init__(self):
        check_choices(self)
        for name in ("batch_size", "num_train_steps", "log_every", "validate_every", "fsdp",
                     "num_validation_images", "checkpoint_every", "keep_last", "num_microbatches",
                     ):  # fmt: skip
            check_at_least(name, getattr(self, name), 1)
        check_at_least("max_skipped_steps", self.max_skipped_steps, 0)
        check_seed(self.seed)
        if self.batch_size % self.num_microbatches:
            remedy = f"use a divisor of batch_size, {self.batch_size}"
            raise UserError("num_microbatches", self.num_microbatches, remedy)


@dataclass(frozen=True)
class PublishedPrior:
    """A prior that was trained elsewhere: what the card of its weights holds as `config`."""

    task: PriorTask
    schedule: Schedule = Schedule()
    """Of the runs; that of the training is in `task.parameterisation`."""
    side: int | None = None
    """Longer side of the images it was trained on, in pixels; None is not known."""
    new_attention_order: bool = False
    """Of checkpoints of ADM: how the channels of queries, keys and values lie in the file."""


@dataclass(frozen=True)
class SampleConfig:
    """One sampling run: degrade images and restore them."""

    prior: str
    """Folder of the exported prior, on disk or gs://."""
    data: DataConfig
    operator: OperatorFamily
    sampler: AnySampler
    out_dir: str
    """Folder to make, on disk or gs://; it must not exist unless overwrite is set."""
    sigma_y: float | Literal["estimate"] = 0.05
    """Standard deviation of the measurement noise, > 0, or an estimate from each given image."""
    poisson_peak: float | None = None
    """Photons of a white pixel: the noise is that of counting them, and sigma_y is not used."""
    stochastic: bool = True
    """A new operator for every image; otherwise the same for all."""
    first_image: int = 0
    """Number of the first image in `data`."""
    num_images: int = 8
    """How many images of `data`, from there on."""
    num_particles: int = 4
    """Posterior samples per image."""
    batch_size: int = 8
    """Images at a time; does not change the results."""
    seed: int = 0
    """Of operators, noise and samples."""
    class_label: int | Literal["data"] | None = None
    """Class of the images, for a prior with classes: a number from 0 for all of them, or what the
    data set says of each; None is the null class."""
    overwrite: bool = False
    """Replace out_dir if it holds nothing but results of this program. What a preset says counts
    for the folder that it names; for another one give --overwrite."""
    observations: str | None = None
    """Restore these measurements instead of degrading images of `data`: an image file, a folder of
    images or a .npz file, see `lavps_jax.runs.given_measurements`. All of it is restored."""
    value_range: ValueRange | None = None
    """The numbers of black and white in `observations`: 0 1, 0 255, 0 4095. None takes 0 to 255 or
    65535 for whole numbers of 8 or 16 bits (or the white that the file declares) and -1 to 1 for
    floats; floats that seem to begin at 0 are refused."""
    image_shape: tuple[int, int, int] | None = None
    """(H, W, C) of the restored image, where given measurements do not tell it."""
    tile: int | None = None
    """Side of the tiles on which networks are evaluated, for images larger than they were trained
    on; None evaluates them on whole images."""
    tile_overlap: int = 8
    """Pixels that neighbouring tiles share."""
    compute_dtype: ComputeDtype = "float32"
    """In which networks compute; bfloat16 is faster on accelerators, with weights of half the
    memory."""
    lpips_vgg: bool = False
    """Also score LPIPS with VGG16, which some papers report; `lpips_alex` is that of AlexNet."""
    compare: bool = True
    """Run `compare_with` too."""
    process_index: int | None = None
    """Which of several processes this is, from 0: each restores its share, 0 puts all together.
    None asks SLURM, Open MPI or JAX."""
    process_count: int | None = None
    """How many processes there are."""
    compare_with: Annotated[tuple[AnySampler, ...], tyro.conf.Suppress] = ()
    """Other samplers that restore the same measurements."""

    def __post_init__(self):
        check_choices(self)
        if self.sigma_y != "estimate":
            check_positive("sigma_y", self.sigma_y)
            if self.sigma_y < 1e-6:  # What is below has no square in float32.
                raise UserError("sigma_y", self.sigma_y, "use at least 1e-6")
        if self.poisson_peak is not None:
            check_positive("poisson_peak", self.poisson_peak)
            reason = "float32 cannot hold the noise of more; or give --sigma-y"
            check_at_most("poisson_peak", self.poisson_peak, LARGEST_PEAK, reason)
        for name in ("num_images", "num_particles", "batch_size"):
            check_at_least(name, getattr(self, name), 1)
        check_at_least("first_image", self.first_image, 0)
        check_seed(self.seed)
        check_value_range("value_range", self.value_range)
        if self.value_range is not None and self.observations is None:
            remedy = "give --observations too: these numbers are theirs"
            raise UserError("value_range", self.value_range, remedy)
        if self.image_shape is not None and min(self.image_shape) < 1:
            raise UserError("image_shape", self.image_shape, "use three positive numbers")
        if isinstance(self.class_label, int):
            check_at_least("class_label", self.class_label, 0)


def load_preset(path: str) -> Any:
    """Runs get_config() of a preset file.

    A relative path that is not in the working folder is one of the repository: presets that build
    on others, and weights that they name, are found from any folder. Modules that lie beside the
    file can be imported in it.

    Raises:
      UserError: if the file does not exist or defines no get_config, or naming the file and line
        of whatever else is raised.
    """
    file = Path(shipped(path)).absolute()
    if file.suffix != ".py" or not file.is_file():
        known = sorted(str(one.relative_to(ROOT)) for one in ROOT.glob("configs/*.py"))
        meant = did_you_mean(path, known) or "give the path of a .py file;"
        raise UserError("preset", path, f"{meant} ls {ROOT}/configs/*.py lists those there are")
    # Dataclasses that a preset defines look up their annotations in the module of this name.
    name = f"preset {file.resolve()}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    _forget_others(file.parent)
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError("preset", path, "define get_config() in it")
        return module.get_config()
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # Whatever a user's file may raise.
        frames = traceback.extract_tb(error.__traceback__)
        places = [(str(file), "?"), *((one.filename, one.lineno) for one in frames)]
        if isinstance(error, SyntaxError):
            places.append((str(error.filename), error.lineno))
        own = [place for place in places if Path(place[0]).parent == file.parent]
        where, line = own[-1]
        remedy = f"fix {Path(where).name}, line {line}: {type(error).__name__}: {error}"
        raise UserError("preset", path, " ".join(remedy.split())) from error
    finally:
        with contextlib.suppress(ValueError):  # The file may have changed the list itself.
            sys.path.remove(str(file.parent))


def _forget_others(folder: Path) -> None:
    """Forgets modules beside presets of other folders that have the name of one in this folder.

    Python would take them for it.
    """
    presets = [one for name, one in sys.modules.items() if name.startswith("preset ")]
    others = {Path(str(one.__file__)).parent for one in presets} - {folder}
    for name in {one.stem for one in folder.glob("*")} & sys.modules.keys() - {"lavps_jax"}:
        file = Path(getattr(sys.modules[name], "__file__", None) or "nowhere")
        if (file.parent.parent if file.name == "__init__.py" else file.parent) in others:
            for one in [one for one in sys.modules if f"{one}.".startswith(f"{name}.")]:
                del sys.modules[one]


# The classes that a stored configuration may name.
_CLASSES: tuple[type, ...] = (
    PriorTask, AmortizedTask, SupervisedTask, OneStepTask, OptimizerConfig, TrainConfig, Schedule,
    EDM, VP, VE, Flow, SampleConfig, PublishedPrior, Inner, *get_args(AnySampler),
    networks.HDiTConfig, networks.LevelConfig, networks.GlobalAttention,
    networks.NeighbourhoodAttention, networks.UNetConfig, networks.SongUNetConfig,
    networks.LocalUNetConfig,
    networks.AmortizedNetworkConfig, networks.SupervisedNetworkConfig,
    data.TfdsData, data.FolderData, data.ShippedData, data.SyntheticData,
    *get_args(operators.families.OperatorFamily),
)  # fmt: skip


def to_json(config: Any) -> Any:
    """A configuration as JSON data; every dataclass becomes an object with its class under "is"."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = {f.name: to_json(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"is": type(config).__name__, **fields}
    if isinstance(config, tuple):
        return [to_json(item) for item in config]
    return config


def from_json(stored: Any) -> Any:
    """The inverse of `to_json`.

    Raises:
      UserError: if the data name an unknown class or field.
    """
    if isinstance(stored, list):
        return tuple(from_json(item) for item in stored)
    if not isinstance(stored, dict):
        return stored
    known = {cls.__name__: cls for cls in _CLASSES}
    name = stored.get("is")
    if not isinstance(name, str) or name not in known:
        remedy = did_you_mean(str(name), known)
        remedy = remedy or "get the file again, or a version of this library that knows it"
        raise UserError("stored configuration", name, remedy)
    fields = {
        key: _family_from_json(value) if key == "operator" else from_json(value)
        for key, value in stored.items()
        if key != "is"
    }
    _check_kinds(known[name], fields)
    try:
        return known[name](**fields)
    except TypeError as error:
        raise UserError("stored configuration", json.dumps(stored)[:80], str(error)) from error


def _check_kinds(kind: type, fields: Mapping[str, Any]) -> None:
    """Raises a UserError unless every field is of a kind it can have; operators may be a user's."""
    for name, hint in get_type_hints(kind).items():
        if name in fields and name != "operator" and not _fits(fields[name], hint):
            known = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
            remedy = f"expected {' or '.join(one.__name__ for one in known)}"
            found = f"{kind.__name__}.{name} {to_json(fields[name])!r:.60}"
            raise UserError("stored configuration", found, remedy)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of this kind, as far as it is a configuration, a number, or these in a
    tuple."""
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if get_origin(hint) is tuple:
        kind, *rest = get_args(hint)
        kinds = [kind] * len(value) if rest == [...] and isinstance(value, tuple) else [kind, *rest]
        return (
            isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds))
        )
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    if hint in (bool, str, NoneType) or dataclasses.is_dataclass(hint):
        kind: Any = hint
        return isinstance(value, kind)
    return True


@dataclass(frozen=True)
class ForeignFamily(Family):
    """A family of operators that a preset defined: its name and settings, without the code."""

    name: str
    settings: str

    def draw(self, rng_key, x_shape):
        raise UserError("operator", self.name, "define it in the preset: this is only its name")


def _family_from_json(stored: Any) -> Any:
    """A family of operators; networks trained on a user's own must be readable without its code."""
    name = stored.get("is") if isinstance(stored, dict) else None
    if name is None or name in {cls.__name__ for cls in _CLASSES}:
        return from_json(stored)
    return ForeignFamily(name, json.dumps(stored))
