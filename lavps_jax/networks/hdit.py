"""The hourglass diffusion transformer (HDiT): configuration and network.

Source: Crowson et al., "Scalable High-Resolution Pixel-Space Image Synthesis with Hourglass
Diffusion Transformers", ICML 2024, arXiv:2401.11605.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lavps_jax.networks.conditioning import ClassEmbedding, check_inputs, require
from lavps_jax.networks.degradation import FeatureDegradation, Measurement
from lavps_jax.networks.layers import (
    FeedForward,
    FourierFeatures,
    Linear,
    MappingNetwork,
    PatchOut,
    RMSNorm,
    SelfAttention,
    TokenMerge,
    TokenSplit,
    fold_key,
)
from lavps_jax.networks.pure import keep

_NUM_AUGMENTATION_INPUTS = 9
"""Augmentation inputs of the published networks. They are always zero here, but their embedding
is not: cos(0) = 1."""


@dataclass(frozen=True)
class GlobalAttention:
    """Every token attends to every token.

    Attributes:
      head_size: width of one head, a multiple of 8.
    """

    head_size: int = 64

    def __post_init__(self):
        _check_head_size(self.head_size)


@dataclass(frozen=True)
class NeighbourhoodAttention:
    """Every token attends to a square window around it, shifted inward at the borders.

    Attributes:
      kernel_size: side of the window in tokens, odd.
      head_size: width of one head, a multiple of 8.
    """

    kernel_size: int = 7
    head_size: int = 64

    def __post_init__(self):
        odd = self.kernel_size >= 1 and self.kernel_size % 2 == 1
        require(odd, "attention.kernel_size", self.kernel_size, "use an odd number such as 7")
        _check_head_size(self.head_size)


def _check_head_size(head_size: int) -> None:
    valid = head_size >= 8 and head_size % 8 == 0
    require(valid, "attention.head_size", head_size, "use a multiple of 8")


@dataclass(frozen=True)
class LevelConfig:
    """One level of the hourglass.

    Attributes:
      width: features per token, a multiple of the head size.
      depth: layers; outer levels have this many going down and as many going up.
      attention: kind of attention.
      d_ff: hidden width of the feed-forward part; None is 3 * width.
      dropout: dropped share in training, in [0, 1).
      degrades: whether the layers also attend to what the operator makes of their features, next
        to the measurement (InvFussion); the width is then a multiple of the numbers of a token,
        (side in pixels)^2 * measured_channels.
    """

    width: int
    depth: int
    attention: GlobalAttention | NeighbourhoodAttention = GlobalAttention()
    d_ff: int | None = None
    dropout: float = 0.0
    degrades: bool = False

    def __post_init__(self):
        head_size = self.attention.head_size
        require(
            self.width >= head_size and self.width % head_size == 0,
            "level.width",
            self.width,
            f"use a multiple of the head size {head_size}",
        )
        require(self.depth >= 1, "level.depth", self.depth, "use at least 1")
        require(self.d_ff is None or self.d_ff >= 1, "level.d_ff", self.d_ff, "use at least 1")
        require(0.0 <= self.dropout < 1.0, "level.dropout", self.dropout, "use a rate in [0, 1)")

    @property
    def hidden(self) -> int:
        """Hidden width of the feed-forward part."""
        return 3 * self.width if self.d_ff is None else self.d_ff

    @property
    def kernel_size(self) -> int | None:
        """Side of the attention window; None if attention is global."""
        attention = self.attention
        return attention.kernel_size if isinstance(attention, NeighbourhoodAttention) else None


@dataclass(frozen=True)
class HDiTConfig:
    """Shape of an HDiT; `build` makes the network.

    Attributes:
      in_channels: channels of the input.
      out_channels: channels of the output.
      patch_size: side of a token of the outermost level in pixels.
      levels: levels from the outermost to the innermost; each has half the tokens per side.
      mapping_width: width of the conditioning vector, even.
      mapping_depth: blocks of the mapping network.
      mapping_ff: hidden width of these blocks; None is 3 * mapping_width.
      num_classes: classes of a class-conditional network; 0 means none.
      num_noise_levels: 1, or 2 for networks that see the noise of two times.
      measured_channels: channels of the images that the operator acts on, for levels that degrade
        their features; None is in_channels.
    """

    in_channels: int = 3
    out_channels: int = 3
    patch_size: int = 4
    levels: tuple[LevelConfig, ...] = ()
    mapping_width: int = 256
    mapping_depth: int = 2
    mapping_ff: int | None = None
    num_classes: int = 0
    num_noise_levels: int = 1
    measured_channels: int | None = None

    def __post_init__(self):
        for name in ("in_channels", "out_channels", "patch_size"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "use at least 1")
        require(len(self.levels) >= 1, "levels", self.levels, "give at least one LevelConfig")
        even = self.mapping_width >= 2 and self.mapping_width % 2 == 0
        require(even, "mapping_width", self.mapping_width, "use an even number")
        require(self.mapping_depth >= 0, "mapping_depth", self.mapping_depth, "use 0 or more")
        valid_ff = self.mapping_ff is None or self.mapping_ff >= 1
        require(valid_ff, "mapping_ff", self.mapping_ff, "use at least 1")
        require(self.num_classes >= 0, "num_classes", self.num_classes, "use 0 or more")
        valid_levels = self.num_noise_levels in (1, 2)
        require(valid_levels, "num_noise_levels", self.num_noise_levels, "use 1 or 2")
        valid_channels = self.measured_channels is None or self.measured_channels >= 1
        require(valid_channels, "measured_channels", self.measured_channels, "use at least 1")
        channels = self.measured_channels or self.in_channels
        for index, level in enumerate(self.levels):
            numbers = (self.patch_size * 2**index) ** 2 * channels
            if level.degrades:
                require(level.width % numbers == 0, "level.width", level.width,
                        f"use a multiple of {numbers}, the numbers of a token")  # fmt: skip

    @property
    def sees_measurement(self) -> bool:
        """Whether the network must be given the measurement itself."""
        return any(level.degrades for level in self.levels)

    @property
    def size_multiple(self) -> int:
        """Image sides must be multiples of this many pixels."""
        return self.patch_size * 2 ** (len(self.levels) - 1)

    @property
    def smallest_side(self) -> int:
        """The least multiple of `size_multiple` that holds the attention windows of all levels."""
        windows = [
            self.patch_size * 2**index * (level.kernel_size or 1)
            for index, level in enumerate(self.levels)
        ]
        return -(-max(windows) // self.size_multiple) * self.size_multiple

    def build(self, rngs: nnx.Rngs) -> HDiT:
        """Makes the network with fresh weights; it returns zero until it is trained."""
        return HDiT(self, rngs=rngs)


class HDiT(nnx.Module):
    """Hourglass diffusion transformer.

    Tokens pass through the levels from the outside in, and back out over the stored skips. All
    layers are conditioned on one vector made of the noise level and the class.

    Args:
      config: shape of the network.
      rngs: source of the initial weights (stream ``params``).
    """

    def __init__(self, config: HDiTConfig, *, rngs: nnx.Rngs):
        self.config = config
        outer = config.levels[:-1]
        widths = [level.width for level in config.levels]
        cond = config.mapping_width

        self.patch_in = TokenMerge(config.in_channels, widths[0], config.patch_size, rngs=rngs)
        self.time_emb = FourierFeatures(1, cond, rngs=rngs)
        self.time_in_proj = Linear(cond, cond, rngs=rngs)
        # The second noise level starts without effect: a network of one noise level can be the
        # start of one with two.
        two = config.num_noise_levels == 2
        self.time_in_proj_s = Linear(cond, cond, zero=True, rngs=rngs) if two else None
        self.aug_emb = FourierFeatures(_NUM_AUGMENTATION_INPUTS, cond, rngs=rngs)
        self.aug_in_proj = Linear(cond, cond, rngs=rngs)
        classes = config.num_classes
        self.class_emb = ClassEmbedding(classes, cond, rngs=rngs) if classes else None
        hidden = config.mapping_ff or 3 * cond
        self.mapping = MappingNetwork(cond, config.mapping_depth, hidden, rngs=rngs)

        def layers(index: int) -> nnx.List:
            return _layers(config, index, rngs)

        last = len(outer)
        self.down_levels = nnx.List([layers(index) for index in range(last)])
        self.merges = nnx.List(
            [TokenMerge(a, b, 2, rngs=rngs) for a, b in zip(widths, widths[1:], strict=False)]
        )
        self.mid_level = layers(last)
        self.splits = nnx.List(
            [TokenSplit(b, a, rngs=rngs) for a, b in zip(widths, widths[1:], strict=False)]
        )
        self.up_levels = nnx.List([layers(index) for index in range(last)])
        self.out_norm = RMSNorm(widths[0])
        self.patch_out = PatchOut(widths[0], config.out_channels, config.patch_size, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "H W I"],
        noise_levels: Float[Array, " N"],
        *,
        label: Float[Array, " K"] | None = None,
        measurement: Measurement | None = None,
        dropout_key: Array | None = None,
    ) -> Float[Array, "H W O"]:
        """Evaluates the network on one image.

        Args:
          x: input, float (H, W, in_channels); H and W multiples of config.size_multiple.
          noise_levels: noise conditioning values, float (num_noise_levels,), already scaled
            (log(sigma_t) / 4 for a prior).
          label: class, one-hot float (num_classes,); None or all zeros is the null class.
          measurement: of the image, if and only if a level degrades its features.
          dropout_key: PRNG key; dropout is active if and only if it is given.

        Returns:
          Float (H, W, out_channels).

        Raises:
          UserError: if the size of the image, the number of channels or of noise levels, the
            label or the measurement does not fit the configuration.
        """
        check_inputs(self.config, x, noise_levels, label, measurement)
        cond = self._condition(noise_levels, label)
        index = itertools.count()

        def run(layers, x):
            for layer in layers:
                x = keep(layer(x, cond, measurement, fold_key(dropout_key, next(index))))
            return x

        dtype = self.patch_in.proj.kernel[...].dtype
        out_dtype, x = x.dtype, self.patch_in(x.astype(dtype))
        skips = []
        for layers, merge in zip(self.down_levels, self.merges, strict=True):
            skips.append(run(layers, x))
            x = merge(skips[-1])
        x = run(self.mid_level, x)
        for layers, split in reversed(list(zip(self.up_levels, self.splits, strict=True))):
            x = run(layers, split(x, skips.pop()))
        return self.patch_out(self.out_norm(x)).astype(out_dtype)

    def _condition(
        self, noise_levels: Float[Array, " N"], label: Float[Array, " K"] | None
    ) -> Float[Array, " M"]:
        cond = self.time_in_proj(self.time_emb(noise_levels[:1]))
        if self.time_in_proj_s is not None:
            cond = cond + self.time_in_proj_s(self.time_emb(noise_levels[1:]))
        zeros = jnp.zeros((_NUM_AUGMENTATION_INPUTS,), noise_levels.dtype)
        cond = cond + self.aug_in_proj(self.aug_emb(zeros))
        if self.class_emb is not None:
            cond = cond + self.class_emb(label)
        return self.mapping(cond)


class TransformerLayer(nnx.Module):
    """Self-attention, then the feed-forward part.

    Args:
      level: shape of the layer.
      cond_features: width of the conditioning vector.
      feature_degradation: makes the second set of tokens to attend to, if there is one.
      rngs: source of the initial weights.
    """

    def __init__(
        self,
        level: LevelConfig,
        cond_features: int,
        feature_degradation: FeatureDegradation | None,
        *,
        rngs: nnx.Rngs,
    ):
        self.feature_degradation = feature_degradation
        self.self_attn = SelfAttention(
            level.width,
            cond_features,
            head_size=level.attention.head_size,
            kernel_size=level.kernel_size,
            dropout_rate=level.dropout,
            joint=level.degrades,
            rngs=rngs,
        )
        self.ff = FeedForward(
            level.width, cond_features, hidden=level.hidden, dropout_rate=level.dropout, rngs=rngs
        )

    def __call__(
        self,
        x: Float[Array, "H W C"],
        cond: Float[Array, " M"],
        measurement: Measurement | None = None,
        dropout_key: Array | None = None,
    ) -> Float[Array, "H W C"]:
        degrade = self.feature_degradation
        assert degrade is None or measurement is not None
        other = None if degrade is None else degrade(x, measurement)  # type: ignore[arg-type]
        x = self.self_attn(x, cond, other, fold_key(dropout_key, 0))
        return self.ff(x, cond, fold_key(dropout_key, 1))


def _layers(config: HDiTConfig, index: int, rngs: nnx.Rngs) -> nnx.List:
    """The layers of one level in one direction."""
    level = config.levels[index]
    channels = config.measured_channels or config.in_channels
    patch_size = config.patch_size * 2**index

    def layer() -> TransformerLayer:
        degrade = None
        if level.degrades:
            degrade = FeatureDegradation(level.width, patch_size, channels, rngs=rngs)
        return TransformerLayer(level, config.mapping_width, degrade, rngs=rngs)

    return nnx.List([layer() for _ in range(level.depth)])
