"""Sources of images and the order in which training visits them.

A source is a sequence of 8-bit images of one shape. A frozen dataclass says where the images come
from and `open` gives the source: `TfdsData`, `FolderData`, `ShippedData` or `SyntheticData`.
Batches need no iterator: `batch_indices` is a pure function of the seed and the step, so that a
resumed run sees the images the uninterrupted run would have seen.
"""

from lavps_jax.data.batches import batch_indices, load_batch, load_labels
from lavps_jax.data.images import (
    ArraySource,
    ImageSource,
    in_memory,
    pad_image,
    to_float,
    to_uint8,
)
from lavps_jax.data.sources import DataConfig, FolderData, ShippedData, SyntheticData, TfdsData

__all__ = [
    "ArraySource",
    "DataConfig",
    "FolderData",
    "ImageSource",
    "ShippedData",
    "SyntheticData",
    "TfdsData",
    "batch_indices",
    "in_memory",
    "load_batch",
    "load_labels",
    "pad_image",
    "to_float",
    "to_uint8",
]
