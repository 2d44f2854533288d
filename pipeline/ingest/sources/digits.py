"""Handwritten digits bundled with scikit-learn: 1797 grey images of 8 x 8 pixels with 17 levels, 10 classes."""

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.config import DataError
from pipeline.ingest.sources.base import ArraySource, Samples, Source, SourceSpec

NUM_TEST = 360
DIGITS_SHA256 = "65e5b4619795efb40c1082f4c350c049e4ad552200d369b6ae99e21eef5e72c5"


class DigitsSpec(SourceSpec):
    """The last 360 images are the test split; the 17 levels are kept (bits/dim = nats / (D ln 2) + log2(17 / 2))."""

    kind: Literal["digits"] = "digits"

    def located(self, root: Path | str) -> "DigitsSpec":
        return self

    def content_digest(self, root: Path | str) -> str:
        return DIGITS_SHA256

    def opened(self) -> Source:
        from sklearn.datasets import load_digits  # imported late: it takes a second

        images, targets = load_digits(return_X_y=True)
        levels = np.asarray(images).astype(np.uint8).reshape(-1, 1, 8, 8)
        labels = np.asarray(targets).astype(np.int64)
        found = hashlib.sha256(levels.tobytes() + labels.astype("<i8").tobytes()).hexdigest()
        if found != DIGITS_SHA256:
            raise DataError(f"digits: scikit-learn's data have sha256 {found}, expected {DIGITS_SHA256}")
        train = Samples(levels[:-NUM_TEST], labels[:-NUM_TEST])
        test = Samples(levels[-NUM_TEST:], labels[-NUM_TEST:])
        names = tuple(str(digit) for digit in range(10))
        return ArraySource((1, 8, 8), 17, names, {"train": train, "test": test})
