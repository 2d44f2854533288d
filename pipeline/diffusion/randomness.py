"""Named noise streams: every draw is a function of (seed, row, step, name), whatever the batch or the machine.

A row is an image index in sampling, a position in the global batch in training. The generator is numpy's Philox: its
key is a hash of seed and name, its counter starts at (0, 0, step, row), so rows never overlap and none is skipped over.
"""

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

_WORD = (1 << 64) - 1
_COUNTER_BYTES = 32


class NoiseStream:
    """All randomness of one seed; holds no position, so the order of calls does not matter.

    Draws are CPU tensors; the caller moves them.
    """

    def __init__(self, seed: int) -> None:
        self.seed = int(seed)
        self._keys: dict[str, NDArray[np.uint64]] = {}
        self._bits: Any = np.random.Philox(key=0)  # its stubs know no assignment of plain states
        self._generator = np.random.Generator(self._bits)
        self._memory = PhiloxMemory(self._bits) if writes_in_place() else None

    def __reduce__(self) -> tuple[Any, ...]:
        return (NoiseStream, (self.seed,))

    def normal(
        self,
        rows: Sequence[int] | Tensor,
        step: int,
        name: str,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
    ) -> Float[Tensor, "rows *shape"]:
        """Standard normal draws, `(len(rows), *shape)`; half precision is rounded from float32."""
        return self._filled(rows, step, f"normal/{name}", shape, dtype, self._generator.standard_normal)

    def uniform(
        self,
        rows: Sequence[int] | Tensor,
        step: int,
        name: str,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
    ) -> Float[Tensor, "rows *shape"]:
        """Uniform draws in [0, 1), `(len(rows), *shape)`."""
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"uniform draws are float32 or float64 (half precision rounds up to 1), found {dtype}")
        return self._filled(rows, step, f"uniform/{name}", shape, dtype, self._generator.random)

    def permutation(self, n: int, epoch: int, name: str) -> Int64[Tensor, "n"]:
        """A random order of 0 ... n-1."""
        self._bits.state = _start(self._key(f"permutation/{name}"), epoch, 0)
        return torch.from_numpy(self._generator.permutation(n).astype(np.int64, copy=False))

    def scalar_uniform(self, step: int, name: str) -> float:
        """One number in [0, 1) for a whole step."""
        self._bits.state = _start(self._key(f"scalar/{name}"), step, 0)
        return float(self._generator.random())

    def _filled(
        self,
        rows: Sequence[int] | Tensor,
        step: int,
        stream: str,
        shape: Sequence[int],
        dtype: torch.dtype,
        fill: Callable[..., Any],
    ) -> Tensor:
        indices = rows.tolist() if isinstance(rows, Tensor) else list(rows)
        drawn = np.float64 if dtype == torch.float64 else np.float32
        out = np.empty((len(indices), int(np.prod(tuple(shape), dtype=np.int64))), dtype=drawn)
        counters = np.zeros((len(indices), 4), dtype=np.uint64)
        counters[:, 2] = int(step) & _WORD
        counters[:, 3] = _words(indices)
        state = _start(self._key(stream), step, 0)
        if self._memory is None:
            for counter, target in zip(counters, out, strict=True):
                state["state"]["counter"] = counter
                self._bits.state = state  # copied by the setter
                fill(None, drawn, target)
        else:
            self._bits.state = state  # the key
            counter, flags, starts = self._memory.counter, self._memory.flags, counters.tobytes()
            for first, target in zip(range(0, len(starts), _COUNTER_BYTES), out, strict=True):
                counter[:] = starts[first : first + _COUNTER_BYTES]
                flags.buffer_pos = 4
                flags.has_uint32 = 0
                fill(None, drawn, target)
        return torch.from_numpy(out).reshape(len(indices), *shape).to(dtype)

    def _key(self, stream: str) -> NDArray[np.uint64]:
        if stream not in self._keys:
            digest = blake2b(f"{self.seed}/{stream}".encode(), digest_size=16).digest()
            self._keys[stream] = np.frombuffer(digest, dtype="<u8").astype(np.uint64)
        return self._keys[stream]


class _PhiloxState(ctypes.Structure):
    """`struct s_philox4x64_state` of numpy (random/src/philox/philox.h), the same since 1.17."""

    _fields_ = (
        ("counter", ctypes.c_void_p),
        ("key", ctypes.c_void_p),
        ("buffer_pos", ctypes.c_int),
        ("buffer", ctypes.c_uint64 * 4),
        ("has_uint32", ctypes.c_int),
        ("uinteger", ctypes.c_uint32),
    )


class PhiloxMemory:
    """Where a Philox keeps its state: numpy's setter takes as long as 60 draws, writing the counter a third of that.

    Attributes:
        counter: its `_COUNTER_BYTES` bytes.
        flags: a row starts with `buffer_pos` = 4 and `has_uint32` = 0, which is: nothing is left from before.
    """

    def __init__(self, bits: Any) -> None:
        self._bits = bits  # owns the memory
        self.flags: Any = _PhiloxState.from_address(bits.ctypes.state_address)
        self.counter = memoryview((ctypes.c_char * _COUNTER_BYTES).from_address(self.flags.counter)).cast("B")


@cache
def writes_in_place() -> bool:
    """Whether this numpy keeps the state of Philox as `_PhiloxState` says; if not, its setter is used.

    What numpy shows of a state with every field in use is compared before anything is written, and draws after it.
    """
    bits: Any = np.random.Philox(key=[3, 5], counter=[7, 11, 13, 17])
    generator = np.random.Generator(bits)
    generator.random(dtype=np.float32)  # leaves half a word and three words in the buffers
    shown, found = bits.state, _PhiloxState.from_address(bits.ctypes.state_address)
    buffers = (found.buffer_pos, list(found.buffer), found.has_uint32, found.uinteger)
    if buffers != (shown["buffer_pos"], shown["buffer"].tolist(), shown["has_uint32"], shown["uinteger"]):
        return False
    words = ((found.counter, shown["state"]["counter"]), (found.key, shown["state"]["key"]))
    if any(list((ctypes.c_uint64 * len(value)).from_address(at)) != value.tolist() for at, value in words):
        return False
    memory, start = PhiloxMemory(bits), _start(shown["state"]["key"], 2, 9)
    memory.counter[:] = start["state"]["counter"].tobytes()
    memory.flags.buffer_pos, memory.flags.has_uint32 = 4, 0
    written = generator.standard_normal(9, np.float32)
    bits.state = start
    return bool((written == generator.standard_normal(9, np.float32)).all())


def _words(rows: Sequence[int]) -> NDArray[np.uint64]:
    """Rows as 64-bit words, negative ones from the top."""
    try:
        return np.array(rows, dtype=np.int64).view(np.uint64)
    except OverflowError:
        return np.array([int(row) & _WORD for row in rows], dtype=np.uint64)


def _start(key: NDArray[np.uint64], step: int, row: int) -> dict[str, Any]:
    """Philox at the start of one row's stream, with empty buffers."""
    return {
        "bit_generator": "Philox",
        "state": {"counter": np.array([0, 0, int(step) & _WORD, int(row) & _WORD], dtype=np.uint64), "key": key},
        "buffer": np.zeros(4, dtype=np.uint64),
        "buffer_pos": 4,
        "has_uint32": 0,
        "uinteger": 0,
    }
