"""Operating system errors in the terms of the store."""

import errno
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from pipeline.store.backend import Missing, Transient
from pipeline.store.errors import ResourceError, StoreError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
BUSY = {errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.EINTR}


def free_bytes(path: Path) -> int | None:
    """Free bytes where the path is or will be; None if nobody can say."""
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def resource_error(error: OSError, path: Path | str, *, size: int | None = None) -> ResourceError:
    """The sentence for a full disk, a quota or a file size limit."""
    wanted = "" if size is None else f" {size} bytes"
    return ResourceError(
        f"cannot write{wanted} to {path}: {os.strerror(error.errno or 0)} ({free_bytes(Path(path))} bytes free); "
        "free space or raise the limit, then repeat the command"
    )


def is_full(error: OSError) -> bool:
    """Whether the error says that disk, quota or file size limit is reached."""
    return error.errno in FULL


@contextmanager
def translated(path: Path, *, size: int | None = None) -> Generator[None]:
    """Turns OSError into Missing, Transient, StoreError or ResourceError; what it does not know passes unchanged."""
    try:
        yield
    except FileNotFoundError as error:
        raise Missing(str(path)) from error
    except OSError as error:
        if is_full(error):
            raise resource_error(error, path, size=size) from error
        if error.errno in BUSY:
            raise Transient(f"{path}: {os.strerror(error.errno)}") from error
        if error.errno in REFUSED:
            raise StoreError(
                f"cannot use {path} in the store: {os.strerror(error.errno)}; "
                "give this user write access or choose another store"
            ) from error
        raise
