"""Rows that need no training and bracket every table: the data's own Gaussian, test images and mean image."""

from pipeline.baselines.base import Baseline

GAUSSIAN = Baseline(
    name="gaussian",
    summary="The Gaussian with the mean and covariance of the training images; no parameters are trained.",
    axes={},
    system=None,
    control="gaussian",
)

TEST_SPLIT = Baseline(
    name="test_split",
    summary="The data set's own test images in place of samples: the noise floor of every distance.",
    axes={},
    system=None,
    control="test_split",
)

MEAN_IMAGE = Baseline(
    name="mean_image",
    summary="The mean of the training images in place of every sample: what a collapsed model is worth.",
    axes={},
    system=None,
    control="mean_image",
)
