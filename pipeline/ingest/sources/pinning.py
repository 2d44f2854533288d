"""What the content of a source is, at plan time: its digest becomes part of the specification."""

from pathlib import Path

from pipeline.config import DataError
from pipeline.ingest.sources.base import SourceSpec


def source_digest(spec: SourceSpec, root: Path | str) -> str | None:
    """Digest of the source's content, which enters identity.

    A file's is its sha256; a folder's is the sha256 over sorted (relative path, sha256); None for a source that is
    nothing but its specification. Remote prefixes are fetched once into the cache.

    Raises:
        DataError: missing or unreadable data, or another digest than `spec.digest`.
        ConfigError: a uri that is not opened, or a remote file without a digest.
    """
    found = spec.content_digest(root)
    if spec.digest is not None and found != spec.digest:
        raise DataError(
            f"data set {spec.name}: {spec.uri or 'the source'} has digest {found}, expected {spec.digest}; "
            "the data changed or the digest is wrong"
        )
    return found


def pin(spec: SourceSpec, root: Path | str) -> SourceSpec:
    """`spec` with an absolute uri and its digest filled in: `pin(spec, root).identity()` identifies the data set."""
    located = spec.located(root)
    return located.model_copy(update={"digest": source_digest(located, root)})
