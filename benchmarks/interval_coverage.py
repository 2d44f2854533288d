"""How often the jackknife interval of a Frechet distance holds the true one; one JSON line per case.

    python benchmarks/interval_coverage.py

500 seeded sets of 2000 rows in 32 dimensions against exact reference statistics, Gaussian and heavy-tailed (t with 8
degrees of freedom), apart from the reference and equal to it: share of 95 % intervals that hold the population value,
bias of the corrected value in standard errors, and the population value in standard errors.
"""

import json

import numpy as np

from tests.unit.test_interval_coverage import DIM, VARIANCES, gaussian, heavy_tailed, measured


def main() -> None:
    """Print one line per case."""
    shifted = np.full(DIM, 0.3), VARIANCES * np.linspace(1.6, 0.5, DIM)
    cases = {"apart": shifted, "equal": (np.zeros(DIM), VARIANCES)}
    for name, (mean, variances) in cases.items():
        for draw in (gaussian, heavy_tailed):
            population, corrected, se, is_covered = measured(draw, mean, variances)
            line = {
                "distributions": name,
                "features": draw.__name__,
                "coverage": float(is_covered.mean()),
                "bias_in_se": round(float((corrected.mean() - population) / se.mean()), 4),
                "population_in_se": round(population / float(se.mean()), 1),
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
