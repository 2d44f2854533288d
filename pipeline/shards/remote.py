"""Input data by URI: local paths, `s3://` objects and prefixes, `https://` files with a digest; a local path back.

Remote bytes go once into a cache folder, named by digest or listing. No other scheme is opened.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.config import ConfigError, DataError
from pipeline.shards.remote_https import download_https
from pipeline.store.cache import default_root

_DIGESTS: dict[tuple[str, int, int, int], str] = {}
_SCHEME = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]*):")


def cache_folder() -> Path:
    """Where remote inputs are kept: `fetched` below this host's cache, `$PIPELINE_CACHE_DIR` or the user's."""
    folder = default_root() / "fetched"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def is_remote(uri: str) -> bool:
    """Whether `uri` names something outside the local file system."""
    match = _SCHEME.match(uri)
    return match is not None and match.group(1).lower() != "file"


def absolute_uri(uri: str, root: Path | str) -> str:
    """`uri` itself if remote or absolute, else the path below `root`.

    Raises:
        ConfigError: an empty uri, a scheme that is not opened, or a relative path that climbs out of `root`.
    """
    if not uri.strip() or not uri.isprintable():
        raise ConfigError(f"uri: {uri!a} names nothing; give a path, s3://bucket/key or https://host/file")
    match = _SCHEME.match(uri)
    scheme = match.group(1).lower() if match else "file"
    if scheme in ("s3", "https"):
        return uri
    if scheme != "file":
        raise ConfigError(f"uri: scheme {scheme}: of {uri} is not opened; use a local path, s3:// or https://")
    plain = uri.removeprefix("file:")
    if plain.startswith("//"):
        plain = plain[2:]
    path = Path(plain).expanduser()
    if path.is_absolute():
        return str(path)
    if ".." in path.parts:
        raise ConfigError(f"uri: {uri} leaves the data folder {root}; give an absolute path instead")
    return str((Path(root) / path).absolute())


def fetch(uri: str, *, digest: str | None = None, root: Path | str = ".", cache: Path | None = None) -> Path:
    """A local file or folder with the content of `uri`.

    Args:
        uri: path (relative ones below `root`), `file://`, `s3://bucket/key`, `s3://bucket/prefix/`, `https://`.
        digest: expected sha256 of a single file, 64 hex digits; required for `https://` and single S3 objects.
        root: folder of relative paths.
        cache: folder for remote content, `cache_folder()` if None.

    Raises:
        DataError: missing, unreachable, too large or not the expected digest.
        ConfigError: a uri that is not opened, or a remote file without a digest.
    """
    where = absolute_uri(uri, root)
    if not is_remote(where):
        path = Path(where)
        if not path.exists():
            raise DataError(f"{path}: no such file or folder; check the uri and PIPELINE_DATA")
        return path
    from pipeline.shards.remote_s3 import fetch_s3  # late: boto3 takes half a second that local data need not pay

    cache = cache or cache_folder()
    is_folder = where.startswith("s3://") and where.endswith("/")
    if is_folder:
        return fetch_s3(where, cache)
    if digest is None:
        raise ConfigError(f"uri: {where} needs its sha256 in `digest`, so that what is fetched is what was meant")
    target = cache / "files" / digest / (Path(urlsplit(where).path).name or "file")
    if target.is_file() and file_sha256(target) == digest:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        partial = Path(scratch) / "part"
        if where.startswith("https://"):
            download_https(where, partial)
        else:
            partial = fetch_s3(where, Path(scratch))
        found = file_sha256(partial)
        if found != digest:
            raise DataError(f"{where}: sha256 is {found}, expected {digest}; the file changed or the digest is wrong")
        os.replace(partial, target)
    return target


def file_sha256(path: Path) -> str:
    """sha256 of a file, hex; remembered while path, size and modification time stay."""
    state = path.stat()
    key = (str(path.absolute()), state.st_size, state.st_mtime_ns, state.st_ino)
    if key not in _DIGESTS:
        with path.open("rb") as file:
            _DIGESTS[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _DIGESTS[key]


def path_sha256(path: Path) -> str:
    """Content digest: of a file its sha256, of a folder the sha256 over sorted (relative path, sha256 of the file).

    Raises:
        DataError: the folder is empty or holds links, pipes or devices.
    """
    if path.is_file():
        return file_sha256(path)
    return listing_sha256({name: file_sha256(path / name) for name in folder_files(path)})


def listing_sha256(digests: Mapping[str, str]) -> str:
    """One digest for a set of named files."""
    lines = "".join(f"{name}\0{digests[name]}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def folder_files(folder: Path) -> list[str]:
    """Relative paths of all regular files below `folder`, sorted; hidden files are passed over.

    Raises:
        DataError: the folder is missing, empty or holds links, pipes or devices.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; check the uri and PIPELINE_DATA")
    names: list[str] = []
    pending = [folder]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    names.append(os.path.relpath(entry.path, folder).replace(os.sep, "/"))
                else:
                    raise DataError(
                        f"{entry.path}: neither file nor folder (a link, pipe or device); copy the file itself"
                    )
    if not names:
        raise DataError(f"{folder}: the folder holds no files")
    return sorted(names)
