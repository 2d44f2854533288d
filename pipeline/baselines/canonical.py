"""Systems that are the same under two names, and the system whose training serves another one."""

from pipeline.baselines.system import SystemSpec
from pipeline.diffusion.processes import SpectralSpec
from pipeline.diffusion.schedules.gud import GudSpec
from pipeline.diffusion.schedules.log_linear import LogLinearSpec


def canonical_system(system: SystemSpec) -> SystemSpec:
    """The system under the one name that its twins share.

    `log_linear` with log-SNR ends taken from the data is gud at softness_a = 1 with ordering by variance and the
    standard prior (arXiv 2410.02667, figure 2a): with l_i = -log Sigma_i the start log Sigma_i - log_snr_data + l_i -
    l_max is min log Sigma - log_snr_data for every component, and the slope is the same for all anyway.
    """
    process = system.process
    if not isinstance(process, SpectralSpec) or process.prior != "standard":
        return system
    schedule = process.schedule
    if not isinstance(schedule, LogLinearSpec) or schedule.log_snr_data is None or schedule.log_snr_prior is None:
        return system
    twin = GudSpec(log_snr_data=schedule.log_snr_data, log_snr_prior=schedule.log_snr_prior)
    return system.model_copy(update={"process": process.model_copy(update={"schedule": twin})})


def trained_system(system: SystemSpec) -> SystemSpec:
    """The system whose training serves `system`: itself, or, for an amortised one, that of the whole box.

    All points of a box share one training, so the parameters that are drawn stand at the lower ends of their ranges.
    """
    amortise = getattr(system.objective, "amortise", None)
    process = system.process
    if amortise is None or not isinstance(process, SpectralSpec):
        return system
    corner = {name: low for name, (low, _) in amortise.box.items()}
    schedule = process.schedule.model_copy(update=corner)
    return system.model_copy(update={"process": process.model_copy(update={"schedule": schedule})})
