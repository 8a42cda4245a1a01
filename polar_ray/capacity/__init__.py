"""How large a pool must be for a load, before there is one. Decides nothing in a pool that runs."""

from polar_ray.capacity.devices import DEVICES, Device, device_named
from polar_ray.capacity.plan import Calls, Plan, make_plan
from polar_ray.capacity.trial import CPU, measured
from polar_ray.capacity.workload import Load, cut

__all__ = [
    "CPU",
    "DEVICES",
    "Calls",
    "Device",
    "Load",
    "Plan",
    "cut",
    "device_named",
    "make_plan",
    "measured",
]
