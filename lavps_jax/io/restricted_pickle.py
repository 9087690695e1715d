"""Read arrays from pickle files without running anything that the file asks for."""

from __future__ import annotations

import codecs
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy._core.multiarray import _reconstruct, scalar

from lavps_jax.errors import UserError

__all__ = ["load_arrays"]


def load_arrays(path: str | Path) -> Any:
    """The containers of NumPy arrays stored in a pickle file.

    A pickle is a program: an ordinary load runs any function that the file names. Here only the
    functions that rebuild NumPy arrays, dtypes and ordered dictionaries can be named, so that an
    untrusted file can fail to load but not act. (It can still ask for much memory.) What is read
    must consist of dictionaries, lists, tuples, arrays, strings, bytes, numbers and None.

    Args:
      path: file written with `pickle.dump`, any protocol.
    Raises:
      UserError: if the file cannot be read, is no pickle, or holds anything else; the message
        names the first global that was refused.
    """
    field = str(path)
    try:
        with open(path, "rb") as file:
            content = _ArrayUnpickler(file, field).load()
    except UserError:
        raise
    except OSError as error:
        raise UserError(field, error.strerror, "give a readable file") from error
    # A damaged pickle raises nearly anything: UnpicklingError, EOFError, KeyError, TypeError, ...
    except Exception as error:
        raise UserError(
            field, f"a damaged pickle ({type(error).__name__}: {error})", "fetch the file again"
        ) from error
    _check_content(field, content)
    return content


def _from_buffer(
    buffer: bytes | bytearray, dtype: np.dtype, shape: tuple[int, ...], order: Literal["C", "F"]
) -> np.ndarray:
    """What pickles of protocol 5 use to rebuild arrays."""
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


def _encode(text: str, encoding: str) -> bytes:
    """What pickles of protocol 2 and below, written by Python 3, use to rebuild bytes."""
    if encoding != "latin1":
        raise ValueError(f"encoding {encoding!r}")
    return codecs.latin_1_encode(text)[0]


def _empty_bytes() -> bytes:
    """What pickles of protocol 2 and below name for the data of an empty array."""
    return b""


# Both spellings of the private module: NumPy renamed it in 2.0.
_ADMITTED: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): scalar,
    ("numpy._core.multiarray", "scalar"): scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _empty_bytes,
}


class _ArrayUnpickler(pickle.Unpickler):
    def __init__(self, file: Any, field: str):
        super().__init__(file)
        self._field = field

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return _ADMITTED[module_name, global_name]
        except KeyError:
            raise UserError(
                self._field,
                f"a pickle that names {module_name}.{global_name}",
                "give a file that holds NumPy arrays only",
            ) from None


def _check_content(field: str, content: Any) -> None:
    """Refuse arrays of Python objects and the admitted classes themselves, used as data."""
    if isinstance(content, dict):
        parts = [*content.keys(), *content.values()]
    elif isinstance(content, (list, tuple)):
        parts = list(content)
    elif isinstance(content, np.ndarray):
        if content.dtype.hasobject:
            raise UserError(field, "an array of Python objects", "give a file of numeric arrays")
        return
    elif content is None or isinstance(content, (str, bytes, int, float, np.generic)):
        return
    else:
        raise UserError(
            field, f"a {type(content).__name__} object", "give a file that holds NumPy arrays only"
        )
    for part in parts:
        _check_content(field, part)
