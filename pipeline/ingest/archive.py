"""The files of a folder, zip, tar or tar.gz, read one by one in memory; nothing is extracted by its name."""

import gzip
import os
import tempfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO

from pipeline.config import DataError
from pipeline.shards.remote import file_sha256, folder_files
from pipeline.shards.tar import MAX_MEMBERS, is_safe_name, regular_members

MAX_MEMBER_BYTES = 2 * 2**30
MAX_UNPACKED_BYTES = 256 * 2**30
MAX_RATIO = 200
_RATIO_FLOOR_BYTES = 64 * 2**20
_CHUNK_BYTES = 1 << 20


class Archive(ABC):
    """Named byte strings, in sorted order of names; hidden files (leading dot) are passed over."""

    def __init__(self, where: str, names: list[str]) -> None:
        self.where = where
        self.names = sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))
        if len(set(self.names)) != len(self.names):
            double = next(a for a, b in zip(self.names, self.names[1:], strict=False) if a == b)
            raise DataError(f"{where}: two members are named {double!a}")
        if not self.names:
            raise DataError(f"{where}: holds no files")

    @abstractmethod
    def read(self, name: str, *, max_bytes: int = MAX_MEMBER_BYTES) -> bytes:
        """The content of one member; more than `max_bytes` is a `DataError`."""

    def _check_size(self, name: str, size: int, max_bytes: int) -> None:
        if size > max_bytes:
            raise DataError(f"{self.where}: {name!a} has {size} bytes, more than the limit of {max_bytes}")


class FolderArchive(Archive):
    """Files below a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), folder_files(folder))
        self._folder = folder

    def read(self, name: str, *, max_bytes: int = MAX_MEMBER_BYTES) -> bytes:
        path = self._folder / name
        self._check_size(name, path.stat().st_size, max_bytes)
        return path.read_bytes()


class ZipArchive(Archive):
    """Members of a zip file; each one's checksum is verified when it is read."""

    def __init__(self, path: Path) -> None:
        where = str(path)
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise DataError(f"{where}: not a readable zip file ({error}); it is cut or damaged") from None
        infos = [info for info in self._zip.infolist() if not info.is_dir()]
        if len(infos) > MAX_MEMBERS:
            raise DataError(f"{where}: more than {MAX_MEMBERS} members; split the archive")
        for info in infos:
            kind = (info.external_attr >> 16) & 0o170000
            if kind not in (0, 0o100000):
                raise DataError(f"{where}: member {info.filename!a} is a link or device; only files are accepted")
            if info.flag_bits & 1:
                raise DataError(f"{where}: member {info.filename!a} is encrypted")
            if not is_safe_name(info.filename.removeprefix("./")):
                raise DataError(
                    f"{where}: member name {ascii(info.filename)[:120]} is absolute, climbs or is not printable"
                )
            if info.file_size > _RATIO_FLOOR_BYTES and info.file_size > MAX_RATIO * max(info.compress_size, 1):
                raise DataError(f"{where}: member {info.filename!a} unpacks more than {MAX_RATIO}-fold; refused")
        self._infos = {info.filename.removeprefix("./"): info for info in infos}
        super().__init__(where, [info.filename.removeprefix("./") for info in infos])

    def read(self, name: str, *, max_bytes: int = MAX_MEMBER_BYTES) -> bytes:
        info = self._infos[name]
        self._check_size(name, info.file_size, max_bytes)
        try:
            with self._zip.open(info) as member:
                content = member.read(info.file_size + 1)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, ValueError) as error:
            raise DataError(f"{self.where}: member {name!a} cannot be read ({error}); the zip is damaged") from None
        if len(content) != info.file_size:
            raise DataError(f"{self.where}: member {name!a} has not the size that the zip declares")
        return content


class TarArchive(Archive):
    """Regular files of a tar; a tar.gz is unpacked once into an unnamed scratch file, as one stream."""

    def __init__(self, path: Path) -> None:
        where = str(path)
        self._file = _plain_tar(path)
        total_bytes = self._file.seek(0, os.SEEK_END)
        self._file.seek(0)
        members = list(regular_members(self._file, where, total_bytes=total_bytes))
        self._places = {member.name: (member.offset, member.size) for member in members}
        super().__init__(where, [member.name for member in members])

    def read(self, name: str, *, max_bytes: int = MAX_MEMBER_BYTES) -> bytes:
        offset, size = self._places[name]
        self._check_size(name, size, max_bytes)
        self._file.seek(offset)
        return self._file.read(size)


_OPEN: OrderedDict[tuple[str, str], Archive] = OrderedDict()


def open_archive(path: Path) -> Archive:
    """The archive at `path`, told apart by content, not by name; the last few stay open in this process.

    Raises:
        DataError: missing, of another format, damaged, or with members that are not plain files.
    """
    if path.is_dir():
        return FolderArchive(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder; check the uri and PIPELINE_DATA")
    key = (str(path.absolute()), file_sha256(path))
    if key not in _OPEN:
        with path.open("rb") as file:
            magic = file.read(4)
        _OPEN[key] = ZipArchive(path) if magic[:2] == b"PK" else TarArchive(path)
        while len(_OPEN) > 2:
            _OPEN.popitem(last=False)
    _OPEN.move_to_end(key)
    return _OPEN[key]


def gunzipped(payload: bytes, where: str, *, max_bytes: int) -> bytes:
    """`payload` itself, or what it unpacks to if it is gzip.

    Raises:
        DataError: cut or damaged gzip, or more than `max_bytes` inside.
    """
    if payload[:2] != b"\x1f\x8b":
        return payload
    unpacker, parts, size = zlib.decompressobj(wbits=31), [], 0
    rest = payload
    try:
        while rest:
            part = unpacker.decompress(rest, _CHUNK_BYTES)
            parts.append(part)
            size += len(part)
            if size > max_bytes:
                raise DataError(f"{where}: unpacks to more than {max_bytes} bytes")
            rest = unpacker.unconsumed_tail
            if unpacker.eof:
                break
    except zlib.error as error:
        raise DataError(f"{where}: not a readable gzip file ({error}); it is damaged") from None
    if not unpacker.eof:
        raise DataError(f"{where}: the gzip stream ends early; the file is cut, fetch it again")
    return b"".join(parts)


def _plain_tar(path: Path) -> BinaryIO:
    """The uncompressed tar, seekable: the file itself, or a scratch file that disappears with its handle."""
    file = path.open("rb")
    if file.read(2) != b"\x1f\x8b":
        file.seek(0)
        return file
    file.seek(0)
    limit = min(MAX_UNPACKED_BYTES, max(_RATIO_FLOOR_BYTES, MAX_RATIO * path.stat().st_size))
    scratch = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the archive
    size = 0
    try:
        with file, gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
            while chunk := unpacked.read(_CHUNK_BYTES):
                size += len(chunk)
                if size > limit:
                    raise DataError(f"{path}: unpacks to more than {limit} bytes; refused")
                scratch.write(chunk)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a readable gzip file ({error}); it is cut or damaged") from None
    scratch.seek(0)
    return scratch
