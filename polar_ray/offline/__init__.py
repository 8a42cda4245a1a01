"""Rescoring of whole datasets: any number of files in, parts with scores out, every row once.

The input is cut into units; a unit becomes one part, a file that appears complete under a name
that only its unit can have. So the folder of parts is itself the record of what is done: whatever
is killed, the same command goes on with the units that have no part. That needs no id column and
no second commit, which is why this drives plain Ray actors and not Ray Data, whose checkpoints need
both and commit by blocks of its own choosing.
"""

from polar_ray.offline.job import rescore

__all__ = ["rescore"]
