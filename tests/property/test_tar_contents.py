"""Tars of any content: what is written comes back, by our reader and by others."""

import io
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pipeline.shards import read_split
from pipeline.shards.npy import decode_npy, encode_npy
from pipeline.shards.tar import is_safe_name, member_header, padding, regular_members
from tests.shard_cases import answer_or_message, tar_bytes, written

EXAMPLES = settings(max_examples=50, deadline=None, derandomize=True)
NAMES = st.text(alphabet=st.characters(exclude_categories=("Cs",)), min_size=1, max_size=120)
SAFE = st.lists(st.sampled_from(["a", "b7", "x" * 60]), min_size=1, max_size=3).map(
    lambda parts: "/".join(parts) + ".png"
)
CONTENTS = st.dictionaries(SAFE, st.binary(max_size=1500), min_size=1, max_size=4)


def listed(content: bytes) -> dict[str, bytes]:
    members = regular_members(io.BytesIO(content), "x.tar", total_bytes=len(content))
    return {member.name: content[member.offset : member.offset + member.size] for member in members}


@EXAMPLES
@given(files=CONTENTS)
def test_members_of_other_writers_come_back(files: dict[str, bytes]) -> None:
    assert listed(tar_bytes(files)) == files


@EXAMPLES
@given(files=CONTENTS)
def test_other_readers_see_our_members(files: dict[str, bytes]) -> None:
    parts = [member_header(name, len(body)) + body + padding(len(body)) for name, body in files.items()]
    content = b"".join(parts) + bytes(1024)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        found = {member.name: archive.extractfile(member) for member in archive}
        assert {name: file.read() for name, file in found.items() if file} == files
    assert listed(content) == files


@EXAMPLES
@given(files=CONTENTS, cut=st.floats(0, 1, exclude_max=True))
def test_a_cut_tar_never_loses_members_silently(files: dict[str, bytes], cut: float) -> None:
    content = tar_bytes(files)
    content = content[: int(cut * len(content))]
    result = answer_or_message(lambda: listed(content))
    assert "x.tar" in result if isinstance(result, str) else result == files


@EXAMPLES
@given(name=NAMES)
def test_accepted_names_stay_below_their_folder(name: str) -> None:
    if is_safe_name(name):
        with TemporaryDirectory() as folder:
            root = Path(folder).resolve()
            assert (root / name).resolve().is_relative_to(root)
            assert (root / name).resolve() != root


@EXAMPLES
@given(junk=st.binary(max_size=3000))
def test_arbitrary_bytes_are_an_error_or_an_empty_tar(junk: bytes) -> None:
    result = answer_or_message(lambda: listed(junk))
    assert "x.tar" in result if isinstance(result, str) else result == {}


@EXAMPLES
@given(
    array=st.sampled_from([np.uint8, np.int64, np.float32, np.float64, np.bool_]).flatmap(
        lambda dtype: arrays(dtype, array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    )
)
def test_arrays_come_back_to_the_bit(array: np.ndarray) -> None:
    back = decode_npy(encode_npy(array), "x.npy")
    assert back.dtype == array.dtype
    assert back.tobytes() == array.tobytes()


@EXAMPLES
@given(
    images=arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))),
    blocks=st.integers(1, 4),
    samples_per_block=st.integers(1, 12),
)
def test_shards_of_any_size_hold_their_samples(images: np.ndarray, blocks: int, samples_per_block: int) -> None:
    with TemporaryDirectory() as folder:
        artifact = written(
            Path(folder), images, samples_per_block=samples_per_block, samples_per_shard=blocks * samples_per_block
        )
        np.testing.assert_array_equal(read_split(artifact, "train").images, images)
