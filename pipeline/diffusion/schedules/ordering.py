"""Ordering labels l of the component-wise schedule: larger l = noised earlier, generated later."""

import torch
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.diffusion.schedules.base import ScheduleContext


def ordering_label(ordering: str | tuple[float, ...], context: ScheduleContext) -> Tensor:
    """The label `(dim,)` named by `ordering`, float64.

    `variance`: -log variance. `frequency`: log(1 + |k|), mapped onto the range of -log variance. `rank`: place by
    falling variance, 0 ... dim-1. `column`, `row`, `level`: the basis's own label. A list: as given.

    Raises:
        ConfigError: the basis has no such label, variances are missing or a list has the wrong length.
    """
    if not isinstance(ordering, str):
        if len(ordering) != context.dim:
            raise ConfigError(f"ordering: a list needs {context.dim} labels, found {len(ordering)}")
        return torch.tensor(ordering, dtype=torch.float64)
    if ordering == "variance":
        return -_log_variances(context)
    if ordering == "rank":
        order = torch.argsort(_log_variances(context), descending=True, stable=True)
        return torch.empty(context.dim, dtype=torch.float64).scatter_(0, order, torch.arange(context.dim).double())
    label = spectral_label(context) if ordering == "frequency" else getattr(context.basis, ordering)
    if label is None:
        raise ConfigError(f"ordering {ordering}: components of the {context.basis.name} basis have no {ordering}")
    return label


def spectral_label(context: ScheduleContext) -> Tensor | None:
    """The label at ordering_r = 1, affinely mapped onto the range of -log variance; None where there is none.

    log(1 + |k|) for bases with a frequency, else the level (haar) or the column (pixel images): GUD figure 5 gives no
    formula that could be recovered, so this is this project's definition.
    """
    basis = context.basis
    if basis.frequency is not None:
        label = torch.log1p(basis.frequency)
    elif basis.level is not None:
        label = basis.level
    elif basis.column is not None:
        label = basis.column
    else:
        return None
    target = -_log_variances(context)
    span = label.max() - label.min()
    if span == 0:
        return target.min().expand_as(label).clone()
    return target.min() + (label - label.min()) / span * (target.max() - target.min())


def _log_variances(context: ScheduleContext) -> Tensor:
    if context.log_variances is None:
        raise ConfigError("this ordering needs data statistics (the variance of each component); none were given")
    return context.log_variances
