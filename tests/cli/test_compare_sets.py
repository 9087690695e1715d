"""Features are those of the published networks, and sets are compared sample by sample."""

from __future__ import annotations

import json
from collections import OrderedDict

import jax
import numpy as np
import pytest
from PIL import Image

from lavps_jax import compare_sets
from lavps_jax.compare_sets import distances, features_of, networks, samples_of
from lavps_jax.data import FolderData, to_float
from lavps_jax.errors import UserError
from lavps_jax.metrics.clip_vision import MEAN, STD, clip_embedding, clip_weights
from lavps_jax.metrics.set_distances import frechet_distance, kernel_distance
from lavps_jax.runs.pictures import save_png

torch = pytest.importorskip("torch")
# The archives are what the authors published; PyTorch makes new ones with a warning.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning"
)
RNG = np.random.default_rng(0)
WIDTH, PATCH, SIDE, SIZE = 128, 8, 32, 24


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = torch.nn.LayerNorm(WIDTH), torch.nn.LayerNorm(WIDTH)
        self.attn = torch.nn.MultiheadAttention(WIDTH, WIDTH // 64, batch_first=True)
        dense = [("c_fc", torch.nn.Linear(WIDTH, 4 * WIDTH)),
                 ("c_proj", torch.nn.Linear(4 * WIDTH, WIDTH))]  # fmt: skip
        self.mlp = torch.nn.ModuleDict(OrderedDict(dense))

    def forward(self, x):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        hidden = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](hidden * torch.sigmoid(1.702 * hidden))


class Vision(torch.nn.Module):
    """The published encoder in PyTorch's own layers, smaller."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.class_embedding = torch.nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = torch.nn.Parameter(torch.randn((SIDE // PATCH) ** 2 + 1, WIDTH))
        self.ln_pre, self.ln_post = torch.nn.LayerNorm(WIDTH), torch.nn.LayerNorm(WIDTH)
        self.transformer = torch.nn.Module()
        self.transformer.resblocks = torch.nn.Sequential(Layer(), Layer(), Layer())
        self.proj = torch.nn.Parameter(torch.randn(WIDTH, SIZE))

    def forward(self, x):
        patches = self.conv1(x).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(x.shape[0], 1, WIDTH)
        tokens = torch.cat([first, patches], 1) + self.positional_embedding
        tokens = self.transformer.resblocks(self.ln_pre(tokens))
        return self.ln_post(tokens[:, 0]) @ self.proj


class WithVision(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.visual = Vision()
        self.other = torch.nn.Linear(2, 2)

    def forward(self, x):
        return self.visual(x)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """(module, its archive)."""
    torch.manual_seed(0)
    module = WithVision().eval()
    for parameter in module.parameters():  # Norms and biases that do something.
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.5, 0.5)
    torch.nn.init.normal_(module.visual.conv1.weight, 0, 0.3)
    file = tmp_path_factory.mktemp("clip") / "clip.pt"
    zeros = torch.zeros(1, 3, SIDE, SIDE)
    torch.jit.save(torch.jit.trace(module, zeros, check_trace=False), str(file))
    return module, str(file)


def test_embeddings_are_those_of_the_published_encoder(clip):
    module, file = clip
    images = RNG.integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)
    found = features_of(images, {"clip": networks(clip=file)["clip"]})["clip"]
    pixels = (images / 255 - MEAN) / STD
    with torch.no_grad():
        given = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32))
        expected = module(given).numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    assert np.abs(expected[0] - expected[1]).max() > 2e-3


@pytest.mark.parametrize("size", [20, 48])
def test_images_of_other_sizes_are_resized_as_published(clip, size):
    """The published preparation is Pillow's cubic resizing, which averages where it shrinks."""
    module, _ = clip
    weights = clip_weights({k: v.detach().numpy() for k, v in module.state_dict().items()})
    smooth = np.cumsum(np.cumsum(RNG.normal(size=(size, size)), 0), 1).astype(np.float32)
    small = (smooth / np.abs(smooth).max())[..., None]
    resized = Image.fromarray(small[..., 0]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    found = clip_embedding(weights, jax.numpy.asarray(small))
    expected = clip_embedding(weights, jax.numpy.asarray(np.asarray(resized))[..., None])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


class Detector(torch.nn.Module):
    """Takes what the published InceptionV3 takes: bytes, three channels first."""

    def forward(self, x, return_features: bool = False):
        assert x.dtype == torch.uint8 and x.shape[1] == 3 and return_features
        y = x.float()
        return torch.stack([y.mean((1, 2, 3)), y[:, 0].std((1, 2)), y[:, 2, 0].mean(1)], 1)


@pytest.fixture
def inception(tmp_path):
    file = tmp_path / "inception.pt"
    torch.jit.save(torch.jit.script(Detector()), str(file))
    return str(file)


def test_standard_distances_are_of_the_given_networks(inception, clip):
    """Colours in the order red, green, blue; a last batch that is not full; mean over sets."""
    sets = [RNG.integers(0, high, (20, 8, 8, 3), np.uint8) for high in (256, 128)]
    reference = RNG.integers(50, 256, (21, 8, 8, 3), np.uint8)
    of = networks(inception, clip[1])
    there, here = features_of(reference, of), [features_of(one, of) for one in sets]
    found = distances(here, there)
    assert set(found) == {"frechet_alexnet", "kernel_alexnet", "fid", "kid", "cmmd"}

    def moments(images):
        red, top_of_blue = images[..., 0].reshape(len(images), -1), images[:, 0, :, 2]
        mean = images.reshape(len(images), -1).mean(1)
        return np.stack([mean, red.std(1, ddof=1), top_of_blue.mean(1)], 1)

    a, (b, c) = moments(reference), map(moments, sets)
    np.testing.assert_allclose(there["inception"], a, rtol=1e-5)
    assert found["fid"] == pytest.approx(
        (frechet_distance(b, a) + frechet_distance(c, a)) / 2, 1e-4
    )
    assert found["kid"] == pytest.approx((kernel_distance(b, a) + kernel_distance(c, a)) / 2, 1e-4)
    cmmd = [1000 * kernel_distance(one["clip"], there["clip"], "gaussian") for one in here]
    assert found["cmmd"] == pytest.approx(np.mean(cmmd), 1e-6) and len(there["clip"]) == 21


NAMES = ("a/0_png", "a/1_png", "b_png")


@pytest.fixture
def run(tmp_path):
    """A folder as sample.py leaves it, two samples of three images, and its pixels."""
    folder = tmp_path / "run"
    pixels = RNG.integers(0, 256, (2, 3, 8, 8, 1), np.uint8)
    for k, name in enumerate(NAMES):
        (folder / "images" / name).mkdir(parents=True)
        for p in range(2):
            for sampler, x in (("mgdm", pixels[p, k]), ("mgdm_2", 255 - pixels[p, k])):
                save_png(folder / "images" / name / f"{sampler}_sample_{p:02d}.png", to_float(x))
    metrics = {"sampler": "mgdm", "compared": [{"sampler": "mgdm_2"}]}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "reference").mkdir()
    for k in range(4):
        save_png(tmp_path / "reference" / f"{k}.png", RNG.uniform(-1, 1, (8, 8, 1)))
    return folder, pixels


def test_a_run_is_compared_by_sampler(run, inception, capsys, tmp_path):
    folder, pixels = run
    for found, expected in zip(samples_of(folder, "mgdm"), pixels, strict=True):
        np.testing.assert_array_equal(np.stack([found[k] for k in range(3)]), expected)
    compare_sets.run([str(folder), str(tmp_path / "reference"), "--inception", inception])
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"images", "reference images", "mgdm", "mgdm_2"}
    of = networks(inception)
    reference = FolderData(str(tmp_path / "reference")).open()
    sets = [features_of(one, of) for one in pixels]
    expected = distances(sets, features_of(reference, of))
    assert found["mgdm"] == pytest.approx(expected, 1e-5)
    assert found["mgdm"]["fid"] != found["mgdm_2"]["fid"]


@pytest.mark.parametrize(
    "change, words",
    [
        (["--inception", "missing.pt"], "inception: got missing.pt; give an existing file"),
        (["--clip", "{damaged}"], "clip: got .*; give the TorchScript archive of its authors"),
        (["--clip", "{inception}"], "clip: got another network; give the archive of a CLIP"),
        (["--inception", "{clip}"], "inception: got .*; give inception-2015-12-05.pt"),
        (
            ["--size", "16"],
            r"reference: got images of \(16, 16\), the run has \(8, 8\); set size to 8",
        ),
    ],
)
def test_mistakes_are_named(run, inception, clip, tmp_path, change, words):
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(b"PK\x03\x04 not an archive")
    files = {"inception": inception, "clip": clip[1], "damaged": damaged}
    flags = [one.format(**files) for one in change]
    with pytest.raises(UserError, match=words):
        compare_sets.run([str(run[0]), str(tmp_path / "reference"), *flags])


@pytest.mark.parametrize("content", [None, "{", "[]", '{"sampler": "mgdm"}'])
def test_a_folder_of_no_run_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(UserError, match="run: got .*; give a folder that sample.py wrote"):
        compare_sets.run([str(tmp_path), str(tmp_path)])


def test_what_is_too_little_is_named(run, tmp_path):
    for k in range(3):
        (tmp_path / "reference" / f"{k}.png").unlink()
    with pytest.raises(UserError, match="reference: got 1 image; give at least 2"):
        compare_sets.run([str(run[0]), str(tmp_path / "reference")])
    with pytest.raises(UserError, match="reference: got .*nowhere; give the path of an existing"):
        compare_sets.run([str(run[0]), str(tmp_path / "nowhere")])
    (run[0] / "images" / "b_png" / "mgdm_sample_01.png").unlink()
    with pytest.raises(UserError, match="run: got .*; give a folder that sample.py wrote, as it"):
        compare_sets.run([str(run[0]), str(tmp_path / "reference")])
