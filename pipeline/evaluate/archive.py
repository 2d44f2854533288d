"""Reference statistics in files: the layouts of public tools are read, and ours can be read by them.

pytorch-fid, clean-fid and EDM publish npz with `mu` and `sigma`, clean-fid also npz with the features themselves
(`feats`), EDM2 a pickle of a dictionary by metric. None of them says which net, which preprocessing or which data the
numbers belong to, so whoever reads such a file states it, and statistics that do not agree in all of it do not meet.
"""

import codecs
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.config import DataError
from pipeline.evaluate.statistics import FeatureStatistics

SYMMETRY = 1e-5
"""Largest asymmetry of a covariance that counts as rounding, relative to its largest entry."""
MUST_AGREE = ("net_sha256", "preprocessing", "dataset")
PICKLED = {
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


@dataclass(frozen=True)
class StatisticsMeta:
    """What statistics belong to; None where nobody said it.

    Attributes:
        n: number of images.
        net_sha256: digest of the feature net's weights.
        preprocessing: how images are brought to the net, such as tf1-299.
        dataset: fingerprint of the data set and split.
    """

    n: int | None = None
    net_sha256: str | None = None
    preprocessing: str | None = None
    dataset: str | None = None


def read_statistics_npz(
    path: str | Path, stated: StatisticsMeta | None = None
) -> tuple[FeatureStatistics, StatisticsMeta]:
    """Statistics of an npz of ours, or of pytorch-fid, clean-fid or EDM, with what is known about them.

    Args:
        path: the file; arrays `mu` (dim,) and `sigma` (dim, dim), divisor n - 1, or `feats` (n, dim).
        stated: what the caller knows about the file.

    Returns:
        Moments and meta: what the file says and what was stated. Where neither says n, the moments have n = dim + 1,
        the least with a regular covariance: good for distances, not for merging.

    Raises:
        DataError: no such file, no statistics in it, or it says something else than was stated.
    """
    try:
        stored = np.load(path, allow_pickle=False)
        if isinstance(stored, np.ndarray):
            raise DataError(f"{path}: one array, expected an npz with mu and sigma")
        with stored:
            arrays = {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file of statistics") from None
    except DataError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path}: not an npz of plain arrays ({error}); a pickle of EDM2 is read by read_statistics_pickle"
        ) from error
    return _found(arrays, str(path), stated)


def read_statistics_pickle(
    path: str | Path, entry: str, stated: StatisticsMeta | None = None
) -> tuple[FeatureStatistics, StatisticsMeta]:
    """Statistics of one entry of an EDM2 pickle, such as `fid` or `fd_dinov2`, without running any code of the file.

    Raises:
        DataError: as `read_statistics_npz`; the pickle holds anything but numbers, arrays, dictionaries and strings.
    """
    try:
        with open(path, "rb") as file:
            content = _ArraysOnly(file).load()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file of statistics") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # a broken pickle raises whatever it likes
        raise DataError(f"{path}: not a pickle of statistics ({error})") from error
    entries = sorted(name for name, value in content.items() if isinstance(value, Mapping)) if _is_map(content) else []
    if entry not in entries:
        raise DataError(f"{path}: no entry {entry!r}; found {', '.join(map(str, entries)) or 'none'}")
    arrays = {"n": np.asarray(content["num_images"])} if "num_images" in content else {}
    arrays |= {str(name): np.asarray(value) for name, value in content[entry].items()}
    return _found(arrays, f"{path}: {entry}", stated)


def write_statistics_npz(
    path: str | Path, statistics: FeatureStatistics, *, net_sha256: str, preprocessing: str, dataset: str
) -> None:
    """Write an npz that pytorch-fid, clean-fid and EDM read (`mu`, `sigma`), and what the numbers belong to.

    Besides these it holds n, method and the three strings of `StatisticsMeta`.
    """
    with open(path, "wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            mu=statistics.mean,
            sigma=statistics.covariance,
            n=np.array(statistics.n, np.int64),
            method=np.array(statistics.method),
            net_sha256=np.array(net_sha256),
            preprocessing=np.array(preprocessing),
            dataset=np.array(dataset),
        )


def require_same(a: StatisticsMeta, b: StatisticsMeta) -> None:
    """Refuse two sets of statistics that have no distance.

    Raises:
        DataError: they differ in net, preprocessing or data set, or one of them does not say.
    """
    for name in MUST_AGREE:
        left, right = getattr(a, name), getattr(b, name)
        if left is None or right is None:
            raise DataError(f"statistics without {name} cannot be compared; state it when the file is read")
        if left != right:
            raise DataError(f"statistics of different {name} have no distance: {left} and {right}")


class _ArraysOnly(pickle.Unpickler):
    """Unpickler that knows numpy arrays and the built-in containers, and no other name."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) in PICKLED:
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):  # bytes of an array in old protocols
            return _latin1
        raise DataError(f"the pickle asks for {module}.{name}; only arrays and numbers are read")


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise DataError(f"the pickle asks for the encoding {encoding}")
    return codecs.latin_1_encode(text)[0]


def _is_map(content: object) -> bool:
    return isinstance(content, dict)


def _found(
    arrays: Mapping[str, NDArray[Any]], where: str, stated: StatisticsMeta | None
) -> tuple[FeatureStatistics, StatisticsMeta]:
    meta = _agreed(_said(arrays, where), stated or StatisticsMeta(), where)
    if {"mu", "sigma"} <= arrays.keys():
        mean, covariance = _moments(arrays["mu"], arrays["sigma"], where)
        n = len(mean) + 1 if meta.n is None else meta.n
        if n < 2:
            raise DataError(f"{where}: n = {n}; a covariance needs two images")
        return FeatureStatistics.from_moments(mean, covariance, n=n), meta
    if "feats" in arrays:
        try:
            statistics = FeatureStatistics.of(arrays["feats"])
        except ValueError as error:
            raise DataError(f"{where}: {error}") from None
        return statistics, _agreed(StatisticsMeta(n=statistics.n), meta, where)
    raise DataError(f"{where}: found {', '.join(sorted(arrays)) or 'nothing'}, expected mu and sigma, or feats")


def _said(arrays: Mapping[str, NDArray[Any]], where: str) -> StatisticsMeta:
    """What a file says of itself."""
    said: dict[str, Any] = {}
    for field in fields(StatisticsMeta):
        value = arrays.get(field.name)
        if value is None:
            continue
        if value.shape != () or value.dtype.kind not in ("iu" if field.name == "n" else "U"):
            raise DataError(f"{where}: {field.name} is {value.dtype} of shape {value.shape}, expected one value")
        said[field.name] = value.item()
    return StatisticsMeta(**said)


def _agreed(said: StatisticsMeta, stated: StatisticsMeta, where: str) -> StatisticsMeta:
    for field in fields(StatisticsMeta):
        left, right = getattr(said, field.name), getattr(stated, field.name)
        if left is not None and right is not None and left != right:
            raise DataError(f"{where}: {field.name} is {left}, not {right}")
        if left is None and right is not None:
            said = replace(said, **{field.name: right})
    return said


def _moments(mu: NDArray[Any], sigma: NDArray[Any], where: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean and covariance in float64, if they are such."""
    if mu.dtype.kind != "f" or sigma.dtype.kind != "f" or mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise DataError(
            f"{where}: mu is {mu.dtype} of shape {mu.shape} and sigma {sigma.dtype} of shape {sigma.shape}, expected "
            "floats of shapes (dim,) and (dim, dim)"
        )
    mean, covariance = mu.astype(np.float64), sigma.astype(np.float64)
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise DataError(f"{where}: mu or sigma hold NaN or infinity")
    asymmetry = np.abs(covariance - covariance.T).max(initial=0.0)
    if asymmetry > SYMMETRY * np.abs(covariance).max(initial=0.0) or (np.diagonal(covariance) < 0.0).any():
        raise DataError(f"{where}: sigma is no covariance: it is not symmetric, or has a negative variance")
    return mean, (covariance + covariance.T) / 2.0
