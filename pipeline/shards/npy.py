"""The npy format for plain numbers: no pickle, no structured types, sizes checked before memory is taken."""

import io
import math

import numpy as np

from pipeline.config import DataError

_KINDS = "buif"


def encode_npy(array: np.ndarray) -> bytes:
    """The bytes of `np.save` in format 1.0; the same array always gives the same bytes."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def decode_npy(payload: bytes | memoryview, where: str) -> np.ndarray:
    """The array in `payload`; a read-only view without a copy.

    Args:
        payload: a whole npy file.
        where: file and member, for messages.

    Raises:
        DataError: not an npy file, an object or structured type, or a size that differs from the header's.
    """
    head = io.BytesIO(bytes(payload[:16384]))
    try:
        version = np.lib.format.read_magic(head)
        if version == (1, 0):
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(head)
        elif version == (2, 0):
            shape, is_fortran, dtype = np.lib.format.read_array_header_2_0(head)
        else:
            raise DataError(f"{where}: npy format {version} is not supported; write format 1.0 or 2.0")
    except DataError:
        raise
    except Exception as error:  # numpy evaluates the header's literal: anything may come out of damaged bytes
        raise DataError(f"{where}: not a readable npy file ({type(error).__name__})") from None
    if dtype.kind not in _KINDS or dtype.hasobject or dtype.subdtype is not None:
        raise DataError(f"{where}: npy of type {dtype} is not accepted; only plain numbers are")
    if any(size < 0 for size in shape):
        raise DataError(f"{where}: npy of shape {shape} has a negative size")
    expected = math.prod(shape) * dtype.itemsize
    found = len(payload) - head.tell()
    if found != expected:
        raise DataError(
            f"{where}: npy of shape {shape} needs {expected} bytes, found {found}; the file is cut or altered"
        )
    if expected == 0:
        return np.zeros(shape, dtype)
    flat = np.frombuffer(payload, dtype, offset=head.tell())
    return flat.reshape(shape, order="F" if is_fortran else "C")
