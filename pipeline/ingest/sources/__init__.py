"""The kinds of data that ingest reads; a new one is a file here and a line in the table."""

from pipeline.config import Spec
from pipeline.ingest.sources.base import Samples, Source, SourceSpec, Split
from pipeline.ingest.sources.cifar_binary import CifarBinarySpec
from pipeline.ingest.sources.digits import DigitsSpec
from pipeline.ingest.sources.gaussian import GaussianSpec
from pipeline.ingest.sources.gaussian_mixture import GaussianMixtureSpec
from pipeline.ingest.sources.idx import IdxSpec
from pipeline.ingest.sources.image_folder import ImageFolderSpec
from pipeline.ingest.sources.parquet import ParquetSpec
from pipeline.ingest.sources.pinning import pin, source_digest
from pipeline.ingest.sources.webdataset import WebdatasetSpec

SOURCES: dict[str, type[Spec]] = {
    "digits": DigitsSpec,
    "idx": IdxSpec,
    "cifar_binary": CifarBinarySpec,
    "image_folder": ImageFolderSpec,
    "parquet": ParquetSpec,
    "webdataset": WebdatasetSpec,
    "gaussian": GaussianSpec,
    "gaussian_mixture": GaussianMixtureSpec,
}

__all__ = ["SOURCES", "Samples", "Source", "SourceSpec", "Split", "pin", "source_digest"]
