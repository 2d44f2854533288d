"""Tar members without extraction: deterministic headers to write, a checked list of regular files to read."""

import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.config import DataError

BLOCK_BYTES = 512
MAX_MEMBERS = 1_000_000
MAX_NAME_CHARACTERS = 1024
_TYPES = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a named pipe",
}


@dataclass(frozen=True)
class TarMember:
    """One regular file inside a tar: where its payload lies."""

    name: str
    offset: int
    size: int


def member_header(name: str, size: int) -> bytes:
    """The 512-byte ustar header of a regular file without owner or time: equal input gives equal bytes."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, 0, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


def padding(size: int) -> bytes:
    """Zeros up to the next multiple of 512 bytes."""
    return bytes(-size % BLOCK_BYTES)


def is_safe_name(name: str) -> bool:
    """Whether a member name is relative, printable and stays below its folder."""
    parts = name.split("/")
    return (
        0 < len(name) <= MAX_NAME_CHARACTERS
        and name.isprintable()
        and "\\" not in name
        and not name.startswith("/")
        and ":" not in parts[0]
        and all(part not in ("", ".", "..") for part in parts)
    )


def regular_members(
    file: BinaryIO, where: str, *, total_bytes: int, max_members: int = MAX_MEMBERS
) -> Iterator[TarMember]:
    """The regular files of an uncompressed tar in order, read from headers only; folders are passed over.

    Args:
        file: seekable, at the start of the tar.
        where: name of the tar for messages.
        total_bytes: size of the file; a member that claims to reach beyond it is an error.
        max_members: upper limit on headers.

    Raises:
        DataError: damaged or cut tar, links, devices, sparse files, odd names, too many members.
    """
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            number = 0
            while (member := archive.next()) is not None:
                number += 1
                vars(archive)["members"].clear()  # keep memory flat over a million headers
                if number > max_members:
                    raise DataError(f"{where}: more than {max_members} members; split the archive into shards")
                name = member.name.removeprefix("./")
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    kind = _TYPES.get(member.type, "not a plain file")
                    raise DataError(f"{where}: member {name!a} is {kind}; only regular files are accepted")
                if not is_safe_name(name):
                    raise DataError(f"{where}: member name {ascii(name)[:120]} is absolute, climbs or is not printable")
                if member.size < 0 or member.offset_data + member.size > total_bytes:
                    raise DataError(
                        f"{where}: member {name!a} claims {member.size} bytes, the archive ends before; it is cut"
                    )
                yield TarMember(name, member.offset_data, member.size)
            if not _ends_in_zeros(file, archive.offset, total_bytes):
                raise DataError(f"{where}: the tar has no end mark at byte {archive.offset}; it is cut or damaged")
    except (tarfile.TarError, OSError, ValueError, EOFError, OverflowError, zlib.error, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where}: not a readable tar ({error}); it is cut or damaged") from None


def _ends_in_zeros(file: BinaryIO, offset: int, total_bytes: int) -> bool:
    """Whether an all-zero block stands where reading stopped (a tar cut between members has none)."""
    if offset >= total_bytes:
        return False
    file.seek(offset)
    block = file.read(BLOCK_BYTES)
    return len(block) == BLOCK_BYTES and not any(block)
