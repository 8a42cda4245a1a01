"""Wire formats of other servers, so that their clients work by changing the address."""

from polar_ray.pool.http.formats import (
    classify,
    embeddings,
    encode,
    get_reward,
    lmdeploy,
    pooling,
    rerank,
    reward,
    score_pairs,
)
from polar_ray.pool.http.formats.wire import Format

__all__ = ["FORMATS", "Format"]

FORMATS: tuple[Format, ...] = (
    classify.FORMAT,
    encode.FORMAT,
    pooling.FORMAT,
    lmdeploy.FORMAT,
    embeddings.FORMAT,
    score_pairs.FORMAT,
    rerank.FORMAT,
    get_reward.FORMAT,
    reward.FORMAT,
)
