"""Blur with any kernel, the same for all pixels, and Gaussian kernels."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Complex, Float, Shaped

from lavps_jax.errors import UserError
from lavps_jax.operators.base import LinearOperator
from lavps_jax.operators.spectral import SpectrumFn, seen_only


class Blur(LinearOperator):
    """y[i, j] = sum_{a, b} kernel[a, b] x[i + a - k//2, j + b - k//2], each channel alone.

    A cross-correlation: the kernel is not flipped. Beyond the border the image is mirrored without
    repeating the edge pixel, and y has the size of x. The adjoint is the true transpose, mirrored
    borders included. `pinv` uses conjugate gradients (see `LinearOperator`): most blurs are nearly
    singular, so it amplifies noise in y; use `ridge(y, weight)` for a noisy y. It is preconditioned
    and reaches 1e-4 down to weights of 1e-4; at 1e-7 it reaches a few percent, and 1e-3 for kernels
    that are their own mirror image in rows and in columns.

    Attributes:
      kernel: float (k, k), k odd with k//2 < min(H, W); usually non-negative with sum 1. It is
        taken as it is: another sum makes images brighter or darker.
      x_shape: shape (H, W, C) of the image, static.
    Raises:
      UserError: if the kernel is not square with an odd side, or too wide for the image.
    """

    kernel: Float[Array, "k k"]

    ridge_num_iterations: ClassVar[int] = 200

    def __post_init__(self):
        super().__post_init__()
        # A stack of operators is built here too: look at the last axes only.
        shape = getattr(self.kernel, "shape", ())
        if len(shape) < 2:
            return
        if jnp.iscomplexobj(self.kernel):
            raise UserError("kernel", f"dtype {self.kernel.dtype}", "give real numbers")
        if shape[-1] != shape[-2]:
            remedy = "give a square kernel (k, k): lavps_jax.operators.blur.squared_kernel does"
            raise UserError("kernel", f"shape {shape}", remedy)
        check_kernel_size(shape[-1], self.x_shape)

    def check(self) -> None:
        check_kernel(self.kernel, self.x_shape)

    def forward(self, x: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        # The Fourier product is the fastest form here: XLA's CPU convolution loses its fast
        # kernels inside lax.scan and its cost grows with the area of the kernel.
        height, width, _ = self.x_shape
        size = self.kernel.shape[-1]
        dtype = jnp.result_type(x.dtype, self.kernel.dtype)
        border = (size // 2, size // 2)
        padded = jnp.pad(x, (border, border, (0, 0)), mode="reflect")
        padded = jnp.moveaxis(padded, -1, 0).astype(dtype)
        # Zeros to the next lengths with small factors; wrapped-around values are cropped below.
        lengths = (_fast_length(height + size - 1), _fast_length(width + size - 1))
        x_spectrum = jnp.fft.rfft2(padded, lengths)
        kernel_spectrum = jnp.fft.rfft2(self.kernel.astype(dtype), lengths)
        y = jnp.fft.irfft2(x_spectrum * jnp.conj(kernel_spectrum)[None], lengths)
        return jnp.moveaxis(y[:, :height, :width], 0, -1)

    def preconditioner(self, weight: float | Float[Array, ""]):
        """Exact up to a factor of 4 for a kernel that is its own mirror image in both directions.

        An image mirrored like this repeats itself after 2 H - 2 and 2 W - 2 pixels. For such a
        kernel A = D^-1/2 Q L Q D^1/2 with Q the cosine transform of the first kind, orthonormal, L
        the spectrum of the kernel, and D = 1/2 at border pixels (1/4 in corners) and 1 elsewhere,
        and D^1/2 Q (L^2 + weight I) Q D^1/2 lies between A^T A + weight I and a quarter of it: a
        dozen steps at any weight. For other kernels L^2 is the mean of |spectrum|^2 over mirror
        images, which saves most of the steps only where the weight is small.
        """
        height, width, _ = self.x_shape
        lengths = (2 * max(height - 1, 1), 2 * max(width - 1, 1))

        def power(kernel: Array) -> Array:
            return jnp.abs(jnp.fft.rfft2(kernel, lengths)) ** 2

        folded = (power(self.kernel) + power(self.kernel[::-1])) / 2
        border = [jnp.ones(n).at[jnp.array([0, -1])].set(0.5) for n in (height, width)]
        inverse_d = 1 / (border[0][:, None] * border[1][None])

        def apply(x: Array) -> Array:
            channels = jnp.moveaxis(x * inverse_d[..., None], -1, 0)
            beyond = ((0, 0), (0, lengths[0] - height), (0, lengths[1] - width))
            mirrored = jnp.pad(channels, beyond, mode="reflect")
            filtered = jnp.fft.irfft2(jnp.fft.rfft2(mirrored) / (folded + weight)[None], lengths)
            return jnp.moveaxis(filtered[:, :height, :width], 0, -1)

        return apply


class CircularBlur(LinearOperator):
    """y[i, j] = sum_{a, b} kernel[a, b] x[i + a - k//2, j + b - k//2], indices modulo H and W.

    A cross-correlation like `Blur`, of an image that repeats itself. The Fourier transform makes it
    diagonal, so adjoint, pseudo-inverse and ridge are exact. Frequencies whose `spectrum` is below
    ten roundings of the largest count as not seen.

    Attributes:
      kernel: float (k, k), k odd, k <= min(H, W), taken as it is.
      x_shape: shape (H, W, C) of the image, static.
    Raises:
      UserError: if the kernel is not square with an odd side, or larger than the image.
    """

    kernel: Float[Array, "k k"]

    def __post_init__(self):
        super().__post_init__()
        shape = getattr(self.kernel, "shape", ())
        if len(shape) < 2:
            return
        if jnp.iscomplexobj(self.kernel):
            raise UserError("kernel", f"dtype {self.kernel.dtype}", "give real numbers")
        if shape[-1] != shape[-2]:
            remedy = "give a square kernel (k, k): lavps_jax.operators.blur.squared_kernel does"
            raise UserError("kernel", f"shape {shape}", remedy)
        check_kernel_size(shape[-1])
        if shape[-1] > min(self.x_shape[:2]):
            remedy = f"give at most the shorter side of the image, {min(self.x_shape[:2])}"
            raise UserError("kernel size", shape[-1], remedy)

    def check(self) -> None:
        check_kernel(self.kernel, self.x_shape)

    def spectrum(self, dtype: Any = jnp.float32) -> Complex[Array, "H V"]:
        """What every frequency of an image of this dtype is multiplied by, V = W // 2 + 1."""
        height, width, _ = self.x_shape
        size = self.kernel.shape[-1]
        around_zero = jnp.pad(self.kernel.astype(dtype), ((0, height - size), (0, width - size)))
        around_zero = jnp.roll(around_zero, (-(size // 2), -(size // 2)), (0, 1))
        return jnp.conj(jnp.fft.rfft2(around_zero))

    def forward(self, x: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        return self._filtered(x, self.spectrum(x.dtype))

    def adjoint(self, y: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        return self._filtered(y, jnp.conj(self.spectrum(y.dtype)))

    def pinv(self, y: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        return self.spectral_adjoint(lambda s: 1 / s, y)

    def ridge(
        self, y: Float[Array, "H W C"], weight: float | Float[Array, ""]
    ) -> Float[Array, "H W C"]:
        spectrum = self.spectrum(y.dtype)
        return self._filtered(y, jnp.conj(spectrum) / (jnp.abs(spectrum) ** 2 + weight))

    def spectral(self, fn: SpectrumFn, x: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        return self._filtered(x, fn(self._singular_values(x.dtype)))

    def spectral_adjoint(self, fn: SpectrumFn, y: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        spectrum, values = self.spectrum(y.dtype), self._singular_values(y.dtype)
        # U^T y has the phase of the adjoint.
        phase = jnp.conj(spectrum) / jnp.where(values > 0, values, 1)
        return self._filtered(y, seen_only(fn, values) * phase)

    def _singular_values(self, dtype: Any) -> Float[Array, "H V"]:
        """|spectrum|, exactly zero where it counts as not seen."""
        size = jnp.abs(self.spectrum(dtype))
        return jnp.where(size > 10 * jnp.finfo(size.dtype).eps * jnp.max(size), size, 0)

    def _filtered(self, x: Array, transfer: Array) -> Float[Array, "H W C"]:
        channels = jnp.moveaxis(x, -1, 0)
        filtered = jnp.fft.irfft2(transfer[None] * jnp.fft.rfft2(channels), self.x_shape[:2])
        return jnp.moveaxis(filtered, 0, -1)


def gaussian_kernel(
    size: int,
    std: float | Float[Array, ""],
    std_across: float | Float[Array, ""] | None = None,
    angle: float | Float[Array, ""] = 0.0,
) -> Float[Array, "size size"]:
    """The Gaussian exp(-(u^2 / std^2 + v^2 / std_across^2) / 2) on a size x size grid, with sum 1.

    u runs along the direction `angle`, v across it. Analytic and not cut off: the published
    experiments use an impulse filtered by scipy, zero beyond 4 std, which differs in the tails.

    Args:
      size: odd number of pixels.
      std: standard deviation in pixels, positive.
      std_across: the same across; None is `std`.
      angle: from the second axis (columns) towards the first (rows), radians.
    Raises:
      UserError: if the size is even or a standard deviation is not positive.
    """
    check_kernel_size(size)
    std_across = std if std_across is None else std_across
    for name, value in (("std", std), ("std_across", std_across)):
        # Drawn ones cannot be looked at.
        if not isinstance(value, Tracer) and not value > 0:
            raise UserError(name, value, "give a positive number of pixels")
    offsets = jnp.arange(size) - size // 2
    rows, columns = offsets[:, None], offsets[None, :]
    along = jnp.cos(angle) * columns + jnp.sin(angle) * rows
    across = -jnp.sin(angle) * columns + jnp.cos(angle) * rows
    kernel = jnp.exp(-0.5 * ((along / std) ** 2 + (across / std_across) ** 2))
    return kernel / jnp.sum(kernel)


def check_kernel_size(size: int, x_shape: tuple[int, ...] | None = None) -> None:
    """Raise a UserError unless size is odd, positive and fits the image (H, W, C), if given."""
    if size < 1 or size % 2 == 0:
        raise UserError("kernel size", size, "give an odd positive number of pixels")
    if x_shape is not None and size // 2 >= min(x_shape[:2]):
        largest = 2 * min(x_shape[:2]) - 1
        raise UserError(
            "kernel size", size, f"give at most {largest} for an image {x_shape[0]} x {x_shape[1]}"
        )


def check_kernel(kernel: Float[Array, "k k"], x_shape: tuple[int, ...]) -> None:
    """Raise a UserError unless the kernel is no larger than the image (H, W, C) and not zero."""
    if kernel.shape[-1] > min(x_shape[:2]):
        remedy = f"give at most the shorter side of the image, {min(x_shape[:2])}"
        raise UserError("kernel size", kernel.shape[-1], remedy)
    if not jnp.all(jnp.isfinite(kernel)) or not jnp.any(kernel):
        raise UserError("kernel", "zeros, or values that are not finite", "give numbers, not all 0")


def check_kernel_sum(name: str, kernel: Shaped[Array, "*B k l"]) -> None:
    """Raise a UserError unless every kernel of a file of measurements has the sum 1.

    Scaled, it would no longer be the kernel of the measurements that come with it.
    """
    sums = jnp.sum(kernel, axis=(-2, -1)).reshape(-1)
    off = jnp.abs(sums - 1)
    if not jnp.all(off < 1e-3):
        worst = sums[jnp.argmax(off)]
        remedy = "divide it by its sum, and give y of that kernel"
        raise UserError(name, f"the sum {worst:.6g}", remedy)


def squared_kernel(kernel: Shaped[Array, "*B k l"]) -> Shaped[Array, "*B n n"]:
    """The same blur as a square kernel with an odd side, with zeros around a kernel (k, l).

    The centre of an even side is at k // 2: behind the middle.
    """
    side = max(kernel.shape[-2:]) // 2 * 2 + 1
    before = [side // 2 - length // 2 for length in kernel.shape[-2:]]
    after = [side - length - first for length, first in zip(kernel.shape[-2:], before, strict=True)]
    return jnp.pad(kernel, [(0, 0)] * (kernel.ndim - 2) + list(zip(before, after, strict=True)))


def _fast_length(length: int) -> int:
    """The next length whose prime factors are all at most 7, where transforms are fast."""
    while True:
        rest = length
        for factor in (2, 3, 5, 7):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 1
