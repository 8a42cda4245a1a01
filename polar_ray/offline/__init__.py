"""Rescoring of whole datasets: any number of files in, parts with scores out, every row once.

The input is cut into splits; a split becomes one part, a file that appears complete under a name
that only its split can have. So the folder of parts is itself the record of what is done: whatever
is killed, the same command goes on with the splits that have no part.

A scorer of this process or a pool scores; what becomes of lost replicas, of overload and of records
that end processes is the pool's business. With a pool of a Ray cluster, Ray tasks that keep nothing
read, map and write the splits. They are not Ray Data's, though that has row hashes and exact
blocks since: a hash is made of a row's file name and place, for parquet only, so that a file whose
contents changed counts as done; finished rows are known by a set of all their ids, which a resumed
run holds in memory and compares with the whole input read anew, where here a list of names tells;
and neither another model nor other settings are refused. One code path also serves the job without
Ray, and the one that reaches its pool over HTTP.

Pipelines that are Ray Data's anyway get the same columns and scores from `dataset.ScoreBatches`.
"""

from polar_ray.offline.job import rescore

__all__ = ["rescore"]
