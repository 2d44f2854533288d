"""Published systems by name. Names end here: below, only the four seams are known."""

from pipeline.baselines.base import Axes, Baseline
from pipeline.baselines.cold import COLD
from pipeline.baselines.controls import GAUSSIAN, MEAN_IMAGE, TEST_SPLIT
from pipeline.baselines.ddpm import DDPM
from pipeline.baselines.gud import GUD
from pipeline.baselines.ihdm import IHDM
from pipeline.baselines.variational_cold import SEQUENTIAL, VARIATIONAL, VCD, VWD

BASELINES: dict[str, Baseline] = {
    baseline.name: baseline
    for baseline in (DDPM, GUD, IHDM, COLD, SEQUENTIAL, VARIATIONAL, VCD, VWD, GAUSSIAN, TEST_SPLIT, MEAN_IMAGE)
}

__all__ = ["BASELINES", "Axes", "Baseline"]
