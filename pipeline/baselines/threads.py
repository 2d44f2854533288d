"""One thread for arithmetic whose last bits must not depend on how many cores a worker was given."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


@contextmanager
def single_thread() -> Iterator[None]:
    """Torch and BLAS compute in one thread inside the block; the caller's numbers of threads come back afterwards."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1):
            yield
    finally:
        torch.set_num_threads(num_threads)
