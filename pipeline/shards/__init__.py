"""Data sets as webdataset tars of npy blocks: write, read, stream and fetch them."""

from pipeline.shards.index import ShardEntry, ShardFiles, SplitIndex, split_index
from pipeline.shards.pixels import dequantise, to_float, to_levels, to_uint8
from pipeline.shards.reader import LabelledImages, read_shard, read_split
from pipeline.shards.stream import StreamedBatches, epoch_positions
from pipeline.shards.writer import ShardWriter, encode_shard

__all__ = [
    "LabelledImages",
    "ShardEntry",
    "ShardFiles",
    "ShardWriter",
    "SplitIndex",
    "StreamedBatches",
    "dequantise",
    "encode_shard",
    "epoch_positions",
    "read_shard",
    "read_split",
    "split_index",
    "to_float",
    "to_levels",
    "to_uint8",
]
