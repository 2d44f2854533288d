"""Published systems by name. Names end here: below, only the four seams are known."""

from pipeline.baselines.base import Axes, Baseline
from pipeline.baselines.controls import GAUSSIAN, TEST_SPLIT
from pipeline.baselines.ddpm import DDPM
from pipeline.baselines.gud import GUD

BASELINES: dict[str, Baseline] = {baseline.name: baseline for baseline in (DDPM, GUD, GAUSSIAN, TEST_SPLIT)}

__all__ = ["BASELINES", "Axes", "Baseline"]
