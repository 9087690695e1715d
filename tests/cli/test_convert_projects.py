"""Checkpoints of other projects from the command line: found out, converted, sampled, exported."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

import lavps_jax as lavps
from lavps_jax.config.settings import PriorTask, PublishedPrior, TrainConfig, load_preset, to_json
from lavps_jax.convert import OWN, run
from lavps_jax.data import SyntheticData
from lavps_jax.diffusion.denoisers import NetworkDenoiser
from lavps_jax.diffusion.parameterisations import EDM, VP
from lavps_jax.errors import UserError
from lavps_jax.io.diffusers_folder import write_network
from lavps_jax.io.foreign import dotted
from lavps_jax.io.layouts.adm import adm_name
from lavps_jax.io.layouts.ddpm import ddpm_name
from lavps_jax.io.layouts.diffusers import to_diffusers
from lavps_jax.io.layouts.edm import edm_name
from lavps_jax.io.layouts.recognised import PRESETS, check_network, recognise, unwrapped
from lavps_jax.io.weights import export_weights
from lavps_jax.networks import LocalUNetConfig, UNetConfig, split
from lavps_jax.operators import families
from lavps_jax.runs.build_training import build_trainee
from lavps_jax.runs.training import run_training

ROOT = Path(__file__).parents[2]
CONFIG = UNetConfig(block_channels=(32, 32), attention=(False, True), layers_per_block=1,
                    downsample_padding=0, noise_scale=1.0)  # fmt: skip
SHAPE = (8, 8, 3)


@pytest.fixture
def network(perturb):
    """A network with nothing at zero, and the denoiser that it should become."""
    model, weights = split(CONFIG.build(nnx.Rngs(0)))
    weights = perturb(weights)
    return weights, NetworkDenoiser(weights, model, VP())


def as_files(weights, layout, folder):
    """The network as a project saves it; returns what a user would name."""
    state, settings = to_diffusers(weights, CONFIG)
    if layout == "diffusers":
        write_network(folder, state, settings | {"sample_size": 8}, {})
        return folder
    file = folder / f"{layout}.safetensors"
    names = {name: ddpm_name(name, CONFIG) for name in state}
    squares = {
        names[name]: array[..., None, None] if ".attn" in names[name] and array.ndim == 2 else array
        for name, array in state.items()
    }
    save_file({f"module.net.{k}": np.ascontiguousarray(v) for k, v in squares.items()}, file)
    return file


@pytest.mark.parametrize("layout", ["diffusers", "ddpm"])
def test_a_checkpoint_becomes_the_denoiser_that_it_is(network, layout, tmp_path, capsys):
    weights, wanted = network
    (tmp_path / "in").mkdir()
    run([str(as_files(weights, layout, tmp_path / "in")), str(tmp_path / "out")])
    told = capsys.readouterr().out
    assert f"layout: {layout}, " in told and "it was trained as: VP(clip=False, pred" in told
    assert ('names: without "module.net.", which is before all of them' in told) == (
        layout == "ddpm"
    )
    prior = lavps.load_prior(str(tmp_path / "out"), SHAPE)
    x_t = jax.random.normal(jax.random.key(1), SHAPE)
    for t in (1, 500, 1000):
        expected = wanted(x_t, jnp.int32(t))
        np.testing.assert_array_equal(prior(x_t, jnp.int32(t)), expected)
        assert np.std(expected) > 1e-3
    operator = lavps.operators.families.SuperResolution(2).draw(jax.random.key(0), SHAPE)
    problem = lavps.simulate(jax.random.key(1), jnp.zeros(SHAPE), operator, lavps.Gaussian(0.05))
    samples = lavps.sample(jax.random.key(2), lavps.DPS(num_steps=4), prior, problem)
    assert samples.is_finite.all() and np.std(samples.x_0) > 0


def test_an_amortized_network_is_trained_on_a_converted_prior(network, tmp_path, monkeypatch):
    """By the preset that says so, at a smaller size, and LAVPS then samples with both."""
    weights, wanted = network
    monkeypatch.chdir(tmp_path)
    run([str(as_files(weights, "ddpm", tmp_path)), "pretrained/adm_ffhq256/prior"])
    preset = load_preset(str(ROOT / "configs/adm_ffhq256_amortized.py"))
    backbone = LocalUNetConfig(block_channels=(8,), noise_features=8)
    images = SyntheticData(8, SHAPE)
    config = dataclasses.replace(
        preset,
        task=dataclasses.replace(
            preset.task,
            network=dataclasses.replace(preset.task.network, backbone=backbone),
            operator=families.MotionBlur(size=5, intensity=0.9),
        ),
        train_data=images,
        validation_data=images,
        batch_size=4,
        num_train_steps=2,
        num_validation_images=4,
    )
    trainee = build_trainee(config, SHAPE)
    x_t = jax.random.normal(jax.random.key(1), SHAPE)
    np.testing.assert_array_equal(trainee.frozen(x_t, jnp.int32(300)), wanted(x_t, jnp.int32(300)))
    run_training(config, devices=jax.devices()[:1])
    prior = lavps.load_prior("pretrained/adm_ffhq256/prior", SHAPE)
    amortized = lavps.load_amortized(f"{preset.run_dir}/weights", SHAPE)
    operator = config.task.operator.draw(jax.random.key(0), SHAPE)
    problem = lavps.simulate(jax.random.key(1), jnp.zeros(SHAPE), operator, lavps.Gaussian(0.05))
    sampler = lavps.LAVPS(amortized, num_steps=4)
    samples = lavps.sample(jax.random.key(2), sampler, prior, problem)
    assert samples.is_finite.all() and np.std(samples.x_0) > 0


def test_a_prior_goes_to_diffusers_and_comes_back_the_same(network, tmp_path):
    weights, _ = network
    (tmp_path / "in").mkdir()
    first = as_files(weights, "diffusers", tmp_path / "in")
    run([str(first), str(tmp_path / "ours")])
    run([str(tmp_path / "ours"), str(tmp_path / "theirs"), "--to-diffusers"])
    name = "diffusion_pytorch_model.safetensors"
    old, new = load_file(first / name), load_file(tmp_path / "theirs" / name)
    assert old.keys() == new.keys()
    for key, array in old.items():
        np.testing.assert_array_equal(new[key], array)
    settings = json.loads((first / "config.json").read_text())
    written = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert written == settings | {OWN: written[OWN]}


def test_a_prior_that_was_trained_here_comes_back_from_diffusers(perturb, tmp_path):
    """Also what diffusers has no place for: the unit of times, the null class, the schedule."""
    network = dataclasses.replace(CONFIG, noise_scale=1000.0, num_classes=3)
    weights = perturb(split(network.build(nnx.Rngs(0)))[1])
    task, data = PriorTask(network, parameterisation=EDM(0.6)), SyntheticData()
    config = TrainConfig(task, data, data, "run", schedule=lavps.Schedule(kind="scaled_linear"))
    export_weights(tmp_path / "ours", weights, {"config": to_json(config)})
    run([str(tmp_path / "ours"), str(tmp_path / "theirs"), "--to-diffusers"])
    scheduler = json.loads((tmp_path / "theirs" / "scheduler_config.json").read_text())
    assert scheduler == {
        "_class_name": "EDMEulerScheduler", "sigma_data": 0.6, "prediction_type": "epsilon"
    }  # fmt: skip
    run([str(tmp_path / "theirs"), str(tmp_path / "back")])
    ours, back = (lavps.load_prior(str(tmp_path / name), SHAPE) for name in ("ours", "back"))
    x_t = jax.random.normal(jax.random.key(1), SHAPE)
    for t, label in ((1, None), (600, jnp.eye(3)[1])):
        x_0 = ours(x_t, jnp.int32(t), label)
        np.testing.assert_array_equal(back(x_t, jnp.int32(t), label), x_0)
        assert np.std(x_0 - x_t) > 1e-3
    # Without what is our own there, as other programs write such priors.
    written = json.loads((tmp_path / "theirs" / "config.json").read_text())
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(written | {OWN: [3]}))
    with pytest.raises(UserError, match="^config.json _lavps_jax: got tuple; get the file again"):
        run([str(tmp_path / "theirs"), str(tmp_path / "refused")])
    assert written.pop(OWN)["is"] == "PublishedPrior"
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(written))
    run([str(tmp_path / "theirs"), str(tmp_path / "other")])
    other = lavps.load_prior(str(tmp_path / "other"))
    assert other.parameterisation == EDM(0.6) and other.schedule == lavps.Schedule()
    (tmp_path / "theirs" / "scheduler_config.json").write_text(
        json.dumps(scheduler | {"prediction_type": "v_prediction"})
    )
    with pytest.raises(UserError, match="^prediction_type: got v_prediction; "):
        run([str(tmp_path / "theirs"), str(tmp_path / "refused")])


def test_a_changed_copy_of_our_configuration_is_refused(network, tmp_path):
    """Also where the scheduler beside it has become that of a network of something else."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    card = {"config": to_json(PublishedPrior(PriorTask(CONFIG, parameterisation=VP())))}
    export_weights(ours, network[0], card)
    run([str(ours), str(theirs), "--to-diffusers"])
    settings = json.loads((theirs / "config.json").read_text())
    own = settings[OWN]
    task, wrong = own["task"], "^stored configuration: got "
    for changed, message in (
        (own["task"], "^config.json _lavps_jax: got PriorTask; get the file again"),
        (own | {"is": ["PublishedPrior"]}, wrong + ".'PublishedPrior'.; did you mean"),
        (own | {"is": "Own"}, wrong + "Own; get the file again, or a version"),
        (own | {"colour": 5}, "unexpected keyword argument 'colour'$"),
        (own | {"task": 5}, wrong + "PublishedPrior.task 5; expected PriorTask$"),
        (own | {"schedule": task}, wrong + "PublishedPrior.schedule {.*; expected Schedule$"),
        (
            own | {"task": task | {"network": None}},
            "PriorTask.network None; expected .* or UNetCon",
        ),
        (own | {"side": "8"}, wrong + "PublishedPrior.side '8'; expected int or NoneType$"),
        *(
            (own | {"task": task | {"network": task["network"] | {name: value}}}, message)
            for name, value, message in (
                ("in_channels", 3.5, "UNetConfig.in_channels 3.5; expected int$"),
                ("noise_scale", "x", "UNetConfig.noise_scale 'x'; expected float$"),
                ("block_channels", [32, "32"], "block_channels .32, '32'.; expected tuple$"),
            )
        ),
    ):
        (theirs / "config.json").write_text(json.dumps(settings | {OWN: changed}))
        with pytest.raises(UserError, match=message) as caught:
            run([str(theirs), str(tmp_path / "refused")])
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 250
    (theirs / "config.json").write_text(json.dumps(settings))
    scheduler = json.loads((theirs / "scheduler_config.json").read_text())
    run([str(theirs), str(tmp_path / "back")])
    for name, value in (("prediction_type", "v_prediction"), ("beta_end", 0.01)):
        (theirs / "scheduler_config.json").write_text(json.dumps(scheduler | {name: value}))
        with pytest.raises(UserError, match=f"^scheduler_config.json {name}: got {value}; _lavps_"):
            run([str(theirs), str(tmp_path / "refused")])
    assert not (tmp_path / "refused").exists()


def test_what_diffusers_schedulers_say_is_kept(network, tmp_path):
    folder = as_files(network[0], "diffusers", tmp_path)
    scheduler = {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195,
                 "prediction_type": "v_prediction"}  # fmt: skip
    (folder / "scheduler_config.json").write_text(json.dumps(scheduler))
    run([str(folder), str(tmp_path / "out")])
    prior = lavps.load_prior(str(tmp_path / "out"))
    schedule = lavps.Schedule(1000, 0.0015, 0.0195, "scaled_linear")
    assert prior.schedule == schedule and prior.parameterisation == VP("v", schedule)
    run([str(tmp_path / "out"), str(tmp_path / "theirs"), "--to-diffusers"])
    run([str(tmp_path / "theirs"), str(tmp_path / "again")])
    assert lavps.load_prior(str(tmp_path / "again")).parameterisation == VP("v", schedule)
    for changes in ({"_class_name": "FlowMatchEulerDiscreteScheduler"},
                    {"rescale_betas_zero_snr": True}):  # fmt: skip
        (folder / "scheduler_config.json").write_text(json.dumps(scheduler | changes))
        with pytest.raises(UserError, match="^scheduler: got .*; use lavps_jax.denoiser_from"):
            run([str(folder), str(tmp_path / "refused")])
    (folder / "scheduler_config.json").write_text('{"beta_schedule": "sigmoid"}')
    with pytest.raises(UserError, match="^beta_schedule: got sigmoid; convert one of linear, "):
        run([str(folder), str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "name,message",
    [
        ("model.diffusion_model.input_blocks.0.0.weight", "got a latent diffusion model; give a p"),
        ("down_blocks.0.attentions.0.transformer_blocks.0.norm1.weight", "that is told texts; "),
        ("unet.down_blocks.0.lora_A.weight", "got a LoRA, small changes to another network; give"),
        ("exp_avg.conv", "got the state of an optimizer; give the averaged weights"),
        ("unet.patch_in.proj.weight", "got an HDiT, .*; give --preset configs/NAME.py"),
        ("features.0", "got tensors named features.0; give a prior as guided-diffusion"),
        ("down_blocks.0.resnets.0.norm1.weight", "diffusers' layout alone; put the config.json"),
    ],
)
def test_other_files_are_told_by_what_they_are(name, message, tmp_path):
    save_file({name: np.ones(3, np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=f"^checkpoint: .*{message}"):
        run([str(tmp_path / "a.safetensors"), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "names,prefix",
    [
        (["model.enc.8x8_conv.weight", "model.map_layer0.bias"], "model."),
        (["model.enc.8x8_conv.weight", "logvar"], ""),
        (["model.blocks.0.weight", "model.blocks.1.weight"], ""),
        (["unet.patch_in.proj.weight", "unet.out_norm.scale"], ""),
        (["module.unet.patch_in.proj.weight", "module.unet.out_norm.scale"], "module."),
        # Without the next part as well it would be a prior of pixels.
        (["module.model.diffusion_model.input_blocks.0.0.weight"], "module."),
        ([], ""),
    ],
)
def test_what_is_before_all_names_is_taken_off_where_that_tells_the_layout(names, prefix):
    state = {name: np.full(1, i) for i, name in enumerate(names)}
    short = {name.removeprefix(prefix): array for name, array in state.items()}
    assert unwrapped(state) == (short, prefix)


NUM_TENSORS = {
    "adm_imagenet256_prior": 566,
    "adm_imagenet64_prior": 541,
    "adm_ffhq256_prior": 362,
    "ddpm256_prior": 450,
}
NUM_PARAMETERS = {
    "adm_imagenet256_prior": 552_814_086,
    "adm_imagenet256_classes_prior": 552_814_086 + 1000 * 1024,
    "adm_imagenet64_prior": 295_904_454,
    "adm_imagenet128_prior": 421_529_606,
    "adm_ffhq256_prior": 93_563_910,
    "improved_cifar10_prior": 52_546_438,
    "improved_imagenet64_prior": 121_063_942,
    "improved_imagenet64_classes_prior": 273_049_350,
    "improved_bedroom256_prior": 113_676_678,
    "ddpm256_prior": 113_673_219,
    "ddpm_cifar10_prior": 35_746_307,
    # Of EDM without the augmentation of images in training, 9 times the noise features.
    "edm_cifar10_prior": 55_733_891 - 9 * 128,
    "edm_cifar10_classes_prior": 55_733_891 - 9 * 128 + 11 * 128,
    "edm_cifar10_ncsn_prior": 56_395_651,
    "edm_cifar10_ncsn_classes_prior": 56_395_651 + 11 * 256,
    "edm_64_prior": 61_805_571 - 9 * 128,
    "edm_64_ncsn_prior": 62_761_091 - 9 * 256 + 128,
    "edm_imagenet64_prior": 295_899_267,
}


def published_name(name, preset, config):
    match preset.partition("_")[0]:
        case "adm" | "improved":
            return adm_name(name, config)
        case "ddpm" | "ddpm256":
            return ddpm_name(name, config)
    return edm_name(name, config, 32 if "cifar10" in preset else 64)


def as_published(name, config):
    """The names and shapes of a published file, and of the same in diffusers' layout."""
    state, of_diffusers = {}, {}
    abstract = split(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))))[1]
    for path, variable in nnx.to_flat_state(abstract):
        theirs = dotted(path).replace("kernel", "weight").replace("scale", "weight")
        shape = variable.shape
        if path[-1] == "kernel":
            shape = (shape[-1], shape[-2], *shape[:-2])
        of_diffusers[theirs] = jax.ShapeDtypeStruct(shape, "float32")
        key = published_name(theirs, name, config).partition(" ")[0]
        if ".qkv." in key:
            shape = (3 * shape[0], *shape[1:])
        if key == "map_label.weight" and isinstance(config, UNetConfig):
            shape = shape[::-1]
        state[key] = jax.ShapeDtypeStruct(shape, "float32")
    return state, of_diffusers


@pytest.mark.parametrize(
    "name,changes",
    [("improved_cifar10_prior", {"block_channels": (32, 32), "attention": (False, True)}),
     # DDPM has the same shapes for 256 pixels, and tells its networks the time otherwise.
     ("improved_bedroom256_prior", {"out_channels": 3})],
)  # fmt: skip
def test_an_improved_ddpm_that_nobody_published_needs_a_preset_of_its_own(name, changes):
    config = dataclasses.replace(PRESETS[name], **changes)
    state, _ = as_published(name, config)
    check_network(state, config)
    with pytest.raises(UserError, match="do not tell; write a preset like configs/improved_cifar1"):
        recognise(state)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_published_sizes_and_the_wrong_one_names_the_right(name):
    """On the names and shapes of published files, without their numbers."""
    config = PRESETS[name]
    abstract = split(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))))[1]
    assert sum(leaf.size for leaf in jax.tree.leaves(abstract)) == NUM_PARAMETERS[name]
    state, of_diffusers = as_published(name, config)
    assert len(state) == NUM_TENSORS.get(name, len(state))
    check_network(state, config)
    if name.startswith("improved") or name in ("adm_imagenet64_prior", "adm_imagenet128_prior"):
        with pytest.raises(UserError, match=f"do not tell; give --preset configs/{name}.py"):
            recognise(state)
    else:
        assert recognise(state).network == dataclasses.replace(config, dropout=0.0)
    for other, network in PRESETS.items():
        if other != name:
            with pytest.raises(UserError, match=f"^preset: .* instead of .*; give configs/{name}"):
                check_network(state, network)
    if isinstance(config, UNetConfig):
        check_network(of_diffusers, config)
        with pytest.raises(UserError, match=f"^preset: .* instead of .*; give configs/{name}"):
            check_network(of_diffusers, CONFIG)
