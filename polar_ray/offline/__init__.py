"""Rescoring of whole datasets: any number of files in, parts with scores out, every row once.

The input is cut into units; a unit becomes one part, a file that appears complete under a name
that only its unit can have. So the folder of parts is itself the record of what is done: whatever
is killed, the same command goes on with the units that have no part.

The job drives plain Ray actors, not Ray Data, because of what a job promises. Ray Data commits by
write task, a size of its own choosing, and by an id column that the input must have; here a row is
known by its place, and no second commit stands beside the files. A part is one file that appears
whole, where a write task may leave several. What is done again after a kill is a setting. A small
parquet file is one block there, and so one actor's, however many there are. And a record that ends
workers is cut out of its unit, where Ray Data tries its block again for ever.

Pipelines that are Ray Data's anyway get the same columns and scores from `dataset.ScoreBatches`.
"""

from polar_ray.offline.job import rescore

__all__ = ["rescore"]
