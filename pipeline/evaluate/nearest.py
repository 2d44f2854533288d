"""The nearest stage: for every image of a block the training image that it is most like, in the features of one net."""

from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.baselines.threads import single_thread
from pipeline.config import Spec
from pipeline.evaluate.feature_sets import check_comparable, joined
from pipeline.evaluate.memorisation import Nearest
from pipeline.store import Artifact, Attempt

STAGE = "nearest"
STAGE_VERSION = 1


class NearestSpec(Spec):
    """Nothing to choose: the inputs say which images, and in the features of which net."""


def run(spec: NearestSpec, inputs: dict[str, Artifact], attempt: Attempt, progress: Any = None) -> dict[str, Any]:
    """Write `nearest.npz`: of every image its index, that of the nearest training image, and the distance of features.

    Args:
        spec: empty.
        inputs: `queries`, a feature block; `reference.<k>`, features of the training split in the same net.
        attempt: where the file goes.
        progress: not used.
    """
    del spec, progress
    queries = inputs["queries"]
    if int(queries.meta["count"]) == 0:  # a block beyond the end of the test split
        return {"net": queries.meta["net"], "count": 0}
    with single_thread():
        block = joined([queries], is_whole=False)
        training = joined([artifact for name, artifact in inputs.items() if name.startswith("reference.")])
        check_comparable(block, training)
        found = Nearest.of(block.rows, training.rows, first_image=int(queries.meta["first"]))
        found = replace(found, index=training.index[found.index])
    np.savez(attempt.path("nearest.npz"), allow_pickle=False, **found.packed())
    return {"net": block.net, "count": block.n}
