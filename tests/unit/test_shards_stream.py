"""The order of streamed samples is a function of seed and epoch alone."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.config import DataError
from pipeline.shards import StreamedBatches, epoch_positions
from tests.shard_cases import FolderArtifact, random_images, written

COUNT = 150
BATCH = 16


@pytest.fixture
def artifact(tmp_path: Path) -> FolderArtifact:
    return written(tmp_path, random_images(COUNT), np.arange(COUNT) % 10)


def stream(artifact: FolderArtifact, *, seed: int = 1) -> StreamedBatches:
    return StreamedBatches(artifact, "train", seed=seed, global_batch=BATCH, window_blocks=3)


def indices(batches: StreamedBatches, steps: range) -> np.ndarray:
    return np.concatenate([batches.batch(step, range(BATCH)).index for step in steps])


def test_every_epoch_visits_every_sample_once_in_another_order(artifact: FolderArtifact) -> None:
    seen = indices(stream(artifact), range(2 * COUNT // BATCH + 1))
    first, second = seen[:COUNT], seen[COUNT : 2 * COUNT]
    np.testing.assert_array_equal(np.sort(first), np.arange(COUNT))
    np.testing.assert_array_equal(np.sort(second), np.arange(COUNT))
    assert (first != second).mean() > 0.9


def test_workers_share_the_batch_of_one_worker(artifact: FolderArtifact) -> None:
    alone = stream(artifact)
    workers = [stream(artifact) for _ in range(4)]
    for step in (0, 3, 11):
        whole = alone.batch(step, range(BATCH))
        parts = [worker.batch(step, range(rank, BATCH, 4)) for rank, worker in enumerate(workers)]
        for rank, part in enumerate(parts):
            np.testing.assert_array_equal(part.images, whole.images[rank::4])
            np.testing.assert_array_equal(part.labels, whole.labels[rank::4])


def test_a_resumed_stream_continues_with_the_same_samples(artifact: FolderArtifact) -> None:
    undisturbed = indices(stream(artifact), range(25))
    np.testing.assert_array_equal(indices(stream(artifact), range(13, 25)), undisturbed[13 * BATCH :])


def test_seeds_give_different_orders(artifact: FolderArtifact) -> None:
    pair = [indices(stream(artifact, seed=seed), range(5)) for seed in (1, 2)]
    assert (pair[0] != pair[1]).mean() > 0.9


def test_samples_are_those_of_their_index(artifact: FolderArtifact) -> None:
    batch = stream(artifact).batch(9, range(BATCH))
    np.testing.assert_array_equal(batch.images, random_images(COUNT)[batch.index])
    np.testing.assert_array_equal(batch.labels, batch.index % 10)


def test_a_damaged_shard_stops_the_stream(artifact: FolderArtifact) -> None:
    path = artifact.path("train-000002.tar")
    content = bytearray(path.read_bytes())
    content[600] ^= 1
    path.write_bytes(bytes(content))
    batches = stream(artifact)
    with pytest.raises(DataError, match=r"train-000002\.tar.*sha256"):
        indices(batches, range(COUNT // BATCH + 1))


def test_positions_walk_through_epochs_without_a_gap() -> None:
    epochs, offsets = epoch_positions(2, range(4), global_batch=4, count=10)
    assert epochs.tolist() == [0, 0, 1, 1]
    assert offsets.tolist() == [8, 9, 0, 1]
