"""Networks that see the measurement: the amortized start and a supervised baseline.

Both read the measurement as an image, x_pinv = A^+ y, stacked to the channels of their input, as
in Saharia et al., "Palette: Image-to-Image Diffusion Models", SIGGRAPH 2022, arXiv:2111.05826. A
backbone with levels that degrade their features (`LevelConfig.degrades`) makes them InvFussion
networks, Elata et al., 2025, arXiv:2504.01689.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lavps_jax.errors import check_choices
from lavps_jax.networks.conditioning import require
from lavps_jax.networks.degradation import Measurement
from lavps_jax.networks.hdit import HDiTConfig
from lavps_jax.networks.local_unet import LocalUNetConfig
from lavps_jax.networks.unet import UNetConfig

MeanUnit = Literal["image", "prior_std"]
InverseRule = Literal["ridge", "published"]
ResidualOf = Literal["prior", "gauss_newton"]


@dataclass(frozen=True)
class AmortizedNetworkConfig:
    """An amortized network in Palette form; `build` makes it.

    Attributes:
      backbone: the prior's configuration, or another one for the same images. Its channels say
        how many an image has; the channels and the number of noise levels of the network that is
        built follow from them.
      noise_embedding: how sigma_t and sigma_tau enter: "log" as log(sigma) / 4, "linear" as they
        are (the published networks).
      mean_unit: unit of d_mu: that of images (the published networks), or the standard deviation
        of the block prior. The loss counts an error of the mean in the latter, which shrinks to
        hundredths at the low-noise end: the network's output is then of order one at all levels.
      guidance: whether the network also sees the Gauss-Newton step from x_0 towards y,
        `lavps_jax.samplers.starts.gauss_newton_shift`; the published networks see x_pinv only,
        which does not tell what A does to x_0 (the kernel of a blur, for one).
      residual_of: what d_mu is added to: the mean of the block prior (the published networks), or
        that and the Gauss-Newton step, which an untrained network then is. Needs `guidance` and
        the unit "prior_std".
      state_scale: what x_t is divided by: "signal", sqrt(alpha_bar[t]), is the published networks'
        and grows with the noise; "data" also by sqrt(1 + 4 sigma_t^2), so that its standard
        deviation is that of images, .5, at all levels.
      inverse: what A^+ is here, see `lavps_jax.diffusion.conditioning.pseudo_inverse`.
    """

    backbone: HDiTConfig | UNetConfig | LocalUNetConfig
    noise_embedding: Literal["log", "linear"] = "log"
    mean_unit: MeanUnit = "image"
    guidance: bool = False
    inverse: InverseRule = "ridge"
    residual_of: ResidualOf = "prior"
    state_scale: Literal["signal", "data"] = "signal"

    def __post_init__(self):
        _check_template(self.backbone)
        check_choices(self)
        if self.residual_of == "gauss_newton":
            fits = self.guidance and self.mean_unit == "prior_std"
            remedy = 'set guidance, and mean_unit to "prior_std": the step is in this unit'
            require(fits, "residual_of", self.residual_of, remedy)

    def build(self, rngs: nnx.Rngs) -> AmortizedNetwork:
        """Makes the network with fresh weights; both its outputs are zero until it is trained."""
        return AmortizedNetwork(self, rngs=rngs)


class AmortizedNetwork(nnx.Module):
    """The amortized residual (d_mu, d_rho) on the prior of a block.

    The start of the inner fit is mu = prior_mean + d_mu (in `mean_unit`; see also `residual_of`),
    rho = log(prior_std) + d_rho.

    Args:
      config: shape of the network.
      rngs: source of the initial weights.
    """

    def __init__(self, config: AmortizedNetworkConfig, *, rngs: nnx.Rngs):
        channels = config.backbone.in_channels
        self.config = config
        num_images = 4 if config.guidance else 3
        self.backbone = _build(config.backbone, num_images * channels, 2 * channels, 2, rngs)

    def __call__(
        self,
        x_0: Float[Array, "H W C"],
        x_t_scaled: Float[Array, "H W C"],
        x_pinv: Float[Array, "H W C"],
        sigma_t: Float[Array, ""],
        sigma_tau: Float[Array, ""],
        guidance: Float[Array, "H W C"] | None = None,
        *,
        label: Float[Array, " K"] | None = None,
        measurement: Measurement | None = None,
        dropout_key: Array | None = None,
    ) -> tuple[Float[Array, "H W C"], Float[Array, "H W C"]]:
        """Evaluates the network on one block.

        Args:
          x_0: current estimate of the clean image, float (H, W, C), nominally in [-1, 1].
          x_t_scaled: x_t / sqrt(alpha_bar[t]), float (H, W, C).
          x_pinv: A^+ y, float (H, W, C).
          sigma_t: noise-to-signal level at t, float (), positive.
          sigma_tau: noise-to-signal level at tau, float (), positive.
          guidance: see `lavps_jax.samplers.starts.gauss_newton_shift`, float (H, W, C), if and only
            if the configuration asks for it.
          label: class, one-hot float (num_classes,); None is the null class.
          measurement: if and only if the backbone degrades its features.
          dropout_key: PRNG key; dropout is active if and only if it is given.

        Returns:
          d_mu, the residual of the mean, and d_rho, the residual of the log standard deviation,
          each float (H, W, C).

        Raises:
          UserError: if an input does not fit the configuration.
        """
        if self.config.state_scale == "data":
            x_t_scaled = x_t_scaled / jnp.hypot(1.0, 2 * jnp.asarray(sigma_t))
        noise_levels = jnp.stack([jnp.asarray(sigma_t), jnp.asarray(sigma_tau)])
        if self.config.noise_embedding == "log":
            noise_levels = jnp.log(noise_levels) / 4
        require((guidance is not None) == self.config.guidance, "guidance", guidance is not None,
                f"this network has guidance={self.config.guidance}")  # fmt: skip
        images = [x_t_scaled, x_0, x_pinv] + ([] if guidance is None else [guidance])
        x = jnp.concatenate(images, axis=-1)
        out = self.backbone(
            x, noise_levels, label=label, measurement=measurement, dropout_key=dropout_key
        )
        d_mu, d_rho = jnp.split(out, 2, axis=-1)
        return d_mu, d_rho


@dataclass(frozen=True)
class SupervisedNetworkConfig:
    """A supervised conditional denoiser; `build` makes it.

    Attributes:
      backbone: the prior's configuration, or another one for the same images; the channels of the
        network that is built follow from its channels.
      inverse: as in `AmortizedNetworkConfig`.
      pivot: whether the network sees the pivot of state and measurement
        (`lavps_jax.diffusion.pivot`) in place of A^+ y. It tells what a linear operator has
        measured, so that one network can serve many.
    """

    backbone: HDiTConfig | UNetConfig | LocalUNetConfig
    inverse: InverseRule = "ridge"
    pivot: bool = False

    def __post_init__(self):
        _check_template(self.backbone)
        check_choices(self)

    def build(self, rngs: nnx.Rngs) -> SupervisedNetwork:
        """Makes the network with fresh weights; it returns zero until it is trained."""
        return SupervisedNetwork(self, rngs=rngs)


class SupervisedNetwork(nnx.Module):
    """The raw output F of a denoiser that sees the measurement, to be EDM-preconditioned.

    Args:
      config: shape of the network.
      rngs: source of the initial weights.
    """

    def __init__(self, config: SupervisedNetworkConfig, *, rngs: nnx.Rngs):
        channels = config.backbone.in_channels
        self.config = config
        num_images = 3 if config.pivot else 2
        self.backbone = _build(config.backbone, num_images * channels, channels, 1, rngs)

    def __call__(
        self,
        x_scaled: Float[Array, "H W C"],
        x_pinv: Float[Array, "H W C"],
        c_noise: Float[Array, ""],
        std: Float[Array, "H W C"] | None = None,
        *,
        label: Float[Array, " K"] | None = None,
        measurement: Measurement | None = None,
        dropout_key: Array | None = None,
    ) -> Float[Array, "H W C"]:
        """Evaluates the network on one image.

        Args:
          x_scaled: c_in * x_t / sqrt(alpha_bar[t]), float (H, W, C), about unit variance.
          x_pinv: A^+ y, or the mean of the pivot, float (H, W, C).
          c_noise: log(sigma_t) / 4, float ().
          std: of the pivot, float (H, W, C), if and only if the configuration asks for it.
          label: class, one-hot float (num_classes,); None is the null class.
          measurement: if and only if the backbone degrades its features.
          dropout_key: PRNG key; dropout is active if and only if it is given.

        Returns:
          F, float (H, W, C).

        Raises:
          UserError: if an input does not fit the configuration.
        """
        require((std is not None) == self.config.pivot, "std", std is not None,
                f"this network has pivot={self.config.pivot}")  # fmt: skip
        images = [x_scaled, x_pinv] + ([] if std is None else [std])
        x = jnp.concatenate(images, axis=-1)
        noise_levels = jnp.asarray(c_noise)[None]
        return self.backbone(
            x, noise_levels, label=label, measurement=measurement, dropout_key=dropout_key
        )


def _build(
    template: HDiTConfig | UNetConfig | LocalUNetConfig,
    in_channels: int,
    out_channels: int,
    num_noise_levels: int,
    rngs: nnx.Rngs,
):
    """The template's network for other inputs and outputs."""
    changes: dict[str, int] = {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "num_noise_levels": num_noise_levels,
    }
    if isinstance(template, HDiTConfig):
        changes["measured_channels"] = template.in_channels
    return dataclasses.replace(template, **changes).build(rngs)


def _check_template(backbone: HDiTConfig | UNetConfig | LocalUNetConfig) -> None:
    require(
        backbone.in_channels == backbone.out_channels,
        "backbone.out_channels",
        backbone.out_channels,
        f"use the channels of the image, {backbone.in_channels}, for both in and out",
    )
