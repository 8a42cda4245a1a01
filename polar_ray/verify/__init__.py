"""Is this checkpoint, and is that server, what POLAR's numbers should come from?

`checkpoint`, `published` and `parity` try a checkpoint directory, `served` asks a running server,
and `diagnosis` names what a wrong score looks like. A check never raises: what goes wrong is its
result.
"""

from polar_ray.verify.check import Check, summary
from polar_ray.verify.suite import verify_model, verify_server

__all__ = ["Check", "summary", "verify_model", "verify_server"]
