"""Malicious and careless input files: refused by name and reason, nothing written outside, little memory taken."""

import gzip
import io
import pickle
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import ConfigError, DataError
from pipeline.ingest.archive import open_archive
from pipeline.ingest.images import ImageFormat, decode_image
from pipeline.ingest.sources.idx import read_idx
from pipeline.shards.npy import decode_npy
from pipeline.shards.tar import regular_members
from tests.shard_cases import idx_bytes, idx_files, ingested, png, random_images, tar_bytes, write_folder

BODY = png(random_images(1, shape=(3, 4, 4))[0])


def tar_with(change: Callable[[tarfile.TarInfo], None]) -> bytes:
    """A tar with a good member and one whose header is changed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in ("good.png", "bad.png"):
            info = tarfile.TarInfo(name)
            info.size = len(BODY)
            if name == "bad.png":
                change(info)
            archive.addfile(info, io.BytesIO(BODY) if info.isreg() else None)
    return buffer.getvalue()


def as_kind(kind: bytes, target: str = "") -> Callable[[tarfile.TarInfo], None]:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname, info.size = kind, target, 0

    return change


def named(name: str) -> Callable[[tarfile.TarInfo], None]:
    def change(info: tarfile.TarInfo) -> None:
        info.name = name

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (as_kind(tarfile.SYMTYPE, "/etc/passwd"), "symbolic link"),
        (as_kind(tarfile.LNKTYPE, "good.png"), "hard link"),
        (as_kind(tarfile.CHRTYPE), "character device"),
        (as_kind(tarfile.BLKTYPE), "block device"),
        (as_kind(tarfile.FIFOTYPE), "named pipe"),
        (named("../escaped.png"), "climbs"),
        (named("/absolute.png"), "absolute"),
        (named("a/../../b.png"), "climbs"),
        (named("a\\b.png"), "printable"),
        (named("new\nline.png"), "printable"),
        (named("right\u202eleft.png"), "printable"),
        (named("c:/x.png"), "absolute"),
        (named("x" * 2000 + ".png"), "printable"),
    ],
)
def test_tar_members_other_than_plain_files_are_refused(tmp_path: Path, change: Any, sentence: str) -> None:
    (tmp_path / "a.tar").write_bytes(tar_with(change))
    with pytest.raises(DataError, match=rf"a\.tar: member.*{sentence}"):
        open_archive(tmp_path / "a.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_a_huge_declared_member_is_refused_before_it_is_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("bomb.png")
    info.size = 2**40
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(DataError, match=r"claims 1099511627776 bytes|cut"):
        open_archive(tmp_path / "a.tar")


def test_a_sparse_member_is_refused() -> None:
    info = tarfile.TarInfo("sparse.png")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:482] = bytes(96)
    header[483:495] = b"%011o\0" % 2**30
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 256 + sum(header[156:]))
    content = bytes(header) + bytes(1024)
    with pytest.raises(DataError, match=r"not a plain file|cut"):
        list(regular_members(io.BytesIO(content), "x.tar", total_bytes=len(content)))


def test_too_many_members_are_refused() -> None:
    content = tar_bytes({f"{i}.png": b"" for i in range(20)})
    with pytest.raises(DataError, match="more than 10 members"):
        list(regular_members(io.BytesIO(content), "x.tar", total_bytes=len(content), max_members=10))


@pytest.mark.parametrize("cut", [0, 100, 512, 1000, 1536])
def test_a_cut_tar_is_refused_wherever_it_ends(tmp_path: Path, cut: int) -> None:
    content = tar_bytes({"a.png": b"x" * 600, "b.png": b"y"})
    (tmp_path / "a.tar").write_bytes(content[:cut])
    with pytest.raises(DataError, match=r"a\.tar: "):
        open_archive(tmp_path / "a.tar")


@pytest.mark.parametrize("share", [0.2, 0.6, 0.99])
def test_a_cut_gzip_is_refused(tmp_path: Path, share: float) -> None:
    content = gzip.compress(tar_bytes({"a.png": np.random.default_rng(0).bytes(5000)}))
    (tmp_path / "a.tar.gz").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=r"a\.tar\.gz: .*gzip.*cut or damaged"):
        open_archive(tmp_path / "a.tar.gz")


def test_a_gzip_bomb_is_refused_at_the_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.ingest.archive._RATIO_FLOOR_BYTES", 10_000)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(bytes(10**7)))
    with pytest.raises(DataError, match="unpacks to more than"):
        open_archive(tmp_path / "a.tar.gz")


def test_a_zip_bomb_is_refused_by_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.ingest.archive._RATIO_FLOOR_BYTES", 10_000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(10**7))
    with pytest.raises(DataError, match="unpacks more than 200-fold"):
        open_archive(tmp_path / "a.zip")


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "a/../../b.png"])
def test_zip_members_cannot_climb(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, BODY)
    with pytest.raises(DataError, match="member name"):
        open_archive(tmp_path / "a.zip")


def test_zip_links_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("a.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="link or device"):
        open_archive(tmp_path / "a.zip")


def test_links_in_a_folder_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", {"a.png": BODY})
    (tmp_path / "data/b.png").symlink_to("/etc/passwd")
    with pytest.raises(DataError, match=r"b\.png: neither file nor folder"):
        open_archive(tmp_path / "data")


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds hardly any pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def test_a_huge_image_is_refused_by_its_header() -> None:
    tracemalloc.start()
    with pytest.raises(DataError, match=r"x\.png: .*more than the limit of 16000000"):
        decode_image(png_header(50000, 50000), ImageFormat(), "x.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_an_image_over_32_megabytes_is_refused() -> None:
    with pytest.raises(DataError, match="more than the limit of 32000000"):
        decode_image(BODY + bytes(32_000_000), ImageFormat(), "x.png")


def test_an_animated_image_is_refused() -> None:
    from PIL import Image

    frames = [Image.fromarray(np.full((4, 4, 3), shade, np.uint8)) for shade in (0, 200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="animated"):
        decode_image(buffer.getvalue(), ImageFormat(), "x.png")


def test_sixteen_bit_greys_are_refused_even_with_conversion() -> None:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(buffer, "PNG")
    with pytest.raises(DataError, match="cannot be converted"):
        decode_image(buffer.getvalue(), ImageFormat(mode="grey", convert=True), "x.png")


@pytest.mark.parametrize("payload", [b"", b"text", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"GIF89a" + bytes(20)])
def test_other_formats_are_not_opened(payload: bytes) -> None:
    with pytest.raises(DataError, match="not an image of an accepted format"):
        decode_image(payload, ImageFormat(), "x.png")


def test_pickled_arrays_are_not_loaded(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "executed",))

    buffer = io.BytesIO()
    np.save(buffer, np.array([Attack()], dtype=object), allow_pickle=True)
    for payload in (buffer.getvalue(), pickle.dumps(Attack())):
        with pytest.raises(DataError):
            decode_npy(payload, "x.npy")
    assert not (tmp_path / "executed").exists()


def test_an_array_that_declares_more_than_it_holds_takes_no_memory() -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776,), }\n"
    with pytest.raises(DataError, match="needs 1099511627776 bytes, found 3"):
        decode_npy(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"abc", "x.npy")


def test_pickle_members_of_a_webdataset_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes({"1.png": BODY, "1.cls": b"0", "1.pkl": pickle.dumps(1)}))
    with pytest.raises(DataError, match=r"1\.pkl.*not accepted"):
        ingested({"kind": "webdataset", "uri": str(tmp_path / "a.tar")}, tmp_path / "out")


def damaged_idx(folder: Path, name: str, content: bytes) -> dict[str, Any]:
    files = idx_files()
    files.pop(name + ".gz", None)
    return {"kind": "idx", "uri": str(write_folder(folder, files | {name: content}))}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("train-images-idx3-ubyte", b"", "starts with nothing"),
        ("train-images-idx3-ubyte", b"\x89PNG\r\n", "not with the magic"),
        ("train-images-idx3-ubyte", idx_bytes(np.zeros((40, 5, 5)))[:-1], "the file is cut or altered"),
        ("train-images-idx3-ubyte", idx_bytes(np.zeros((40, 5, 5))) + b"x", "the file is cut or altered"),
        ("train-images-idx3-ubyte", b"\0\0\x0d\x03" + bytes(20), "only unsigned bytes"),
        ("train-images-idx3-ubyte", b"\0\0\x08\x03" + b"\xff" * 12, "the header declares"),
        ("train-images-idx3-ubyte", idx_bytes(np.zeros((39, 5, 5))), "train has 39 images but 40 labels"),
        ("train-images-idx3-ubyte", idx_bytes(np.zeros((40, 6, 5))), "different shapes"),
        ("train-labels-idx1-ubyte", idx_bytes(np.zeros((40, 1))), "2 axes, expected 1"),
        (
            "train-images-idx3-ubyte",
            gzip.compress(idx_bytes(np.zeros((40, 5, 5))), mtime=0)[:-9],
            "gzip stream ends early",
        ),
    ],
)
def test_damaged_idx_files_are_named(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        ingested(damaged_idx(tmp_path / "in", name, content), tmp_path / "out")


def test_an_idx_bomb_stops_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.ingest.sources.idx._MAX_BYTES", 10**6)
    with pytest.raises(DataError, match="unpacks to more than 1000000 bytes"):
        read_idx(gzip.compress(bytes(10**7)), "x.gz")


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ({"kind": "idx"}, "no file train-images-idx3-ubyte"),
        ({"kind": "cifar_binary"}, r"reads the binary version of CIFAR-10"),
        ({"kind": "image_folder"}, "holds no images"),
        ({"kind": "parquet"}, r"no file matches `train: "),
        ({"kind": "webdataset"}, r"no file matches `train: "),
    ],
)
def test_a_folder_of_other_files_says_what_is_missing(tmp_path: Path, tree: dict[str, Any], sentence: str) -> None:
    write_folder(tmp_path / "in", {"readme.txt": b"hello"})
    with pytest.raises(DataError, match=sentence):
        ingested(tree | {"uri": str(tmp_path / "in")}, tmp_path / "out")


@pytest.mark.parametrize("kind", ["idx", "cifar_binary", "image_folder", "parquet", "webdataset"])
def test_missing_and_empty_folders_are_named(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        ingested({"kind": kind, "uri": "missing"}, tmp_path / "out", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: the folder holds no files"):
        ingested({"kind": kind, "uri": "empty"}, tmp_path / "out", tmp_path)
    with pytest.raises(ConfigError, match="names nothing"):
        ingested({"kind": kind}, tmp_path / "out", tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"), [(bytes(3073 * 2 - 1), "not whole records"), (b"\x0b" + bytes(3072), "label 11")]
)
def test_damaged_cifar_files_are_named(tmp_path: Path, content: bytes, sentence: str) -> None:
    write_folder(tmp_path / "in", {"data_batch_1.bin": content, "test_batch.bin": bytes(3073)})
    with pytest.raises(DataError, match=rf"data_batch_1\.bin: .*{sentence}"):
        ingested({"kind": "cifar_binary", "uri": str(tmp_path / "in")}, tmp_path / "out")


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", {"train.parquet": b"PAR1" + bytes(100) + b"PAR1"})
    with pytest.raises(DataError, match=r"train\.parquet: not a readable parquet file"):
        ingested({"kind": "parquet", "uri": str(tmp_path / "in")}, tmp_path / "out")
