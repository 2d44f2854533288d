"""Any byte of a shard or an image flipped or cut: the same samples or a named error, never other samples."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.ingest.images import ImageFormat, decode_image
from pipeline.shards import LabelledImages, StreamedBatches, read_split
from pipeline.shards.npy import decode_npy, encode_npy
from tests.shard_cases import FolderArtifact, answer_or_message, png, random_images, written

IMAGES = random_images(20, shape=(1, 3, 3))
LABELS = np.arange(20) % 10
FIXTURE_ONCE = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


@pytest.fixture
def artifact(tmp_path: Path) -> FolderArtifact:
    return written(tmp_path, IMAGES, LABELS)


def damaged(content: bytes, data: st.DataObject) -> bytes:
    """One bit flipped, a tail cut off, bytes appended, or two bytes exchanged."""
    place = data.draw(st.integers(0, len(content) - 1), label="place")
    how = data.draw(st.sampled_from(["flip", "cut", "append", "swap"]), label="how")
    changed = bytearray(content)
    if how == "flip":
        changed[place] ^= 1 << data.draw(st.integers(0, 7), label="bit")
    elif how == "cut":
        del changed[place:]
    elif how == "append":
        changed += bytes(1 + place % 700)
    else:
        changed[place], changed[-place - 1] = changed[-place - 1], changed[place]
    return bytes(changed)


@FIXTURE_ONCE
@given(data=st.data())
def test_a_damaged_shard_gives_its_samples_or_an_error(artifact: FolderArtifact, data: st.DataObject) -> None:
    path = artifact.path("train-000000.tar")
    content = path.read_bytes()
    path.write_bytes(damaged(content, data))
    results = [answer_or_message(read) for read in (lambda: read_split(artifact, "train"), lambda: streamed(artifact))]
    path.write_bytes(content)
    for result in results:
        if isinstance(result, str):
            assert "train-000000.tar" in result
        else:
            np.testing.assert_array_equal(result.images, IMAGES[result.index])
            np.testing.assert_array_equal(result.labels, LABELS[result.index])
            assert len(result) == len(IMAGES)


def streamed(artifact: FolderArtifact) -> LabelledImages:
    batches = StreamedBatches(artifact, "train", seed=0, global_batch=20)
    try:
        return batches.batch(0, range(20))
    finally:
        batches.close()


@FIXTURE_ONCE
@given(data=st.data())
def test_damaged_arrays_give_an_array_or_an_error(data: st.DataObject) -> None:
    content = damaged(encode_npy(IMAGES), data)
    result = answer_or_message(lambda: decode_npy(content, "x.npy"))
    assert "x.npy" in result if isinstance(result, str) else result.nbytes < len(content)


@FIXTURE_ONCE
@given(data=st.data())
def test_a_damaged_png_gives_its_pixels_or_an_error(data: st.DataObject) -> None:
    pixels = random_images(1, shape=(3, 8, 8))[0]
    content = damaged(png(pixels), data)
    result = answer_or_message(lambda: decode_image(content, ImageFormat(), "x.png"))
    assert "x.png" in result if isinstance(result, str) else np.array_equal(result, pixels)
