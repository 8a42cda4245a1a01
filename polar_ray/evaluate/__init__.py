"""What scores are worth: preference accuracy, ranking within groups, agreement of two scorings.

The measures are pure functions of numpy arrays; `read` gets these out of files, `report` makes
tables, JSON and HTML of them. Nothing here knows how a score was made.
"""

from polar_ray.evaluate.agreement import Agreement, agreement
from polar_ray.evaluate.estimate import Estimate
from polar_ray.evaluate.groups import Ranking, ranking
from polar_ray.evaluate.preferences import Preferences, preferences

__all__ = [
    "Agreement",
    "Estimate",
    "Preferences",
    "Ranking",
    "agreement",
    "preferences",
    "ranking",
]
