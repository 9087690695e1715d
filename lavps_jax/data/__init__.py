"""Sources of images and the order in which training visits them.

A source is a sequence of 8-bit images of one shape. A frozen dataclass says where the images come
from and `open` gives the source: `TfdsData`, `FolderData`, `ShippedData` or `SyntheticData`.
Which images a step of training sees, and which crops of them, are pure functions of the seed and
the step, so that a resumed run sees what the uninterrupted run would have seen.
"""

from lavps_jax.data.batches import batch_indices, load_ahead, load_batch, load_labels, view_numbers
from lavps_jax.data.cache import cached
from lavps_jax.data.images import (
    ArraySource,
    ImageSource,
    pad_image,
    to_float,
    to_uint8,
)
from lavps_jax.data.sources import (
    DataConfig,
    FolderData,
    ShippedData,
    SyntheticData,
    TfdsData,
    shipped,
)

__all__ = [
    "ArraySource",
    "DataConfig",
    "FolderData",
    "ImageSource",
    "ShippedData",
    "SyntheticData",
    "TfdsData",
    "batch_indices",
    "cached",
    "load_ahead",
    "load_batch",
    "load_labels",
    "pad_image",
    "shipped",
    "to_float",
    "to_uint8",
    "view_numbers",
]
