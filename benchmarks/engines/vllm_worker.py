"""Measures real vllm on one workload, in its own environment; prints one line of JSON.

Imports nothing of polar_ray: that is not installed there. The same task and report as
`engines/worker.py`.
"""

import json
import os
import resource
import sys
import time

# One process, so that its CPU seconds are all there are; no threads bound to cores.
os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_CPU_KVCACHE_SPACE="4",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_LOGGING_LEVEL="ERROR",
    HF_HUB_OFFLINE="1",
)

import numpy as np
import vllm
from vllm import LLM, PoolingParams


def measure(task):
    """Scores, and the CPU and wall seconds of each repetition; loading is not part of them."""
    with np.load(task["ids"]) as file:
        ids = np.split(file["ids"], np.cumsum(file["lengths"])[:-1])
    prompts = [{"prompt_token_ids": one.tolist()} for one in ids]
    llm = LLM(
        model=task["model_dir"],
        trust_remote_code=True,
        skip_tokenizer_init=True,
        runner="pooling",
        dtype="float32",
        enforce_eager=True,
        max_model_len=max(map(len, ids)) + 16,
        enable_prefix_caching=True,
    )
    params = PoolingParams(task="token_classify", use_activation=False)

    def score(some):
        outputs = llm.encode(
            some, pooling_params=params, pooling_task="token_classify", use_tqdm=False
        )
        return [float(one.outputs.data[-1]) for one in outputs]

    score([{"prompt_token_ids": list(range(40))}])
    runs = []
    for _ in range(task["repeat"]):
        cpu, wall = time.process_time(), time.perf_counter()
        scores = score(prompts)
        runs.append((time.process_time() - cpu, time.perf_counter() - wall))
    return {
        "computed_tokens": sum(map(len, ids)),
        "cpu_s": min(cpu for cpu, _ in runs),
        "wall_s": min(wall for _, wall in runs),
        "runs_cpu_s": [round(cpu, 3) for cpu, _ in runs],
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        "scores": scores,
        "version": vllm.__version__,
    }


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
