"""Measures real sglang on one workload, in its own environment; prints one line of JSON.

Imports nothing of polar_ray: that is not installed there. The same task and report as
`engines/worker.py`. sglang's scheduler is a process of its own, so CPU seconds and memory are
those of all its processes together.
"""

import json
import os
import re
import sys
import time

os.environ.update(SGLANG_USE_CPU_ENGINE="1", HF_HUB_OFFLINE="1")

import numpy as np
import psutil
import sglang
from sglang.srt.managers.io_struct import EmbeddingReqInput

FIRST_MEMBER_FIRST = "sglang, first member first"
SAME_GROUP = 16
"""Records whose first tokens are the same this far are of one group."""

POOL_TOKENS = 131072
"""Of keys and values: 4 GiB at the prototype's shape, as vllm is given."""


def in_turns(ids, first_member_first):
    """Places of the records that are sent at once: all, or each group's first and then the rest.

    sglang shares nothing within a batch, so a group of which one member went ahead is the best that
    a caller can do for it.
    """
    if not first_member_first:
        return [list(range(len(ids)))]
    first, rest, known = [], [], set()
    for place, one in enumerate(ids):
        group = one[:SAME_GROUP].tobytes()
        (rest if group in known else first).append(place)
        known.add(group)
    return [turn for turn in (first, rest) if turn]


def processes():
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def cpu_seconds():
    """Of all its processes, in user and system mode."""
    return sum(sum(one.cpu_times()[:2]) for one in processes())


def peak_mib():
    """The sum of what each process held at most."""
    total = 0
    for one in processes():
        with open(f"/proc/{one.pid}/status", encoding="ascii") as status:
            total += int(re.search(r"VmHWM:\s+(\d+)", status.read())[1])
    return total >> 10


class Log:
    """The file into which all that sglang prints goes: its cache shows nowhere else."""

    def __init__(self, path):
        self.path = path
        with open(path, "wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)

    def computed_tokens(self):
        """Tokens that were not found in its cache, since the start."""
        with open(self.path, encoding="utf-8", errors="replace") as file:
            return sum(map(int, re.findall(r"Prefill batch.*?#new-token: (\d+)", file.read())))


def measure(task, log):
    """Scores, and the CPU and wall seconds of each repetition; loading is not part of them."""
    with np.load(task["ids"]) as file:
        ids = np.split(file["ids"], np.cumsum(file["lengths"])[:-1])
    turns = in_turns(ids, task["engine"] == FIRST_MEMBER_FIRST)
    engine = sglang.Engine(
        model_path=task["model_dir"],
        device="cpu",
        attention_backend="torch_native",
        dtype="float32",
        is_embedding=True,
        trust_remote_code=True,
        skip_tokenizer_init=True,
        context_length=max(map(len, ids)) + 16,
        max_total_tokens=POOL_TOKENS,
        log_level="info",
    )

    def wait_for(awaitable):
        return engine.loop.run_until_complete(awaitable)

    def score_at_once(some):
        request = EmbeddingReqInput(input_ids=[one.tolist() for one in some])
        replies = wait_for(engine.tokenizer_manager.generate_request(request, None).__anext__())
        return [reply["embedding"][0] for reply in replies]

    score_at_once([np.arange(40)])
    runs = []
    for _ in range(task["repeat"]):
        wait_for(engine.tokenizer_manager.flush_cache(timeout_s=30))
        before = log.computed_tokens()
        cpu, wall = cpu_seconds(), time.perf_counter()
        scores = [0.0] * len(ids)
        for turn in turns:
            replies = score_at_once([ids[place] for place in turn])
            for place, score in zip(turn, replies, strict=True):
                scores[place] = score
        runs.append((cpu_seconds() - cpu, time.perf_counter() - wall))
    report = {
        "computed_tokens": log.computed_tokens() - before,
        "cpu_s": min(cpu for cpu, _ in runs),
        "wall_s": min(wall for _, wall in runs),
        "runs_cpu_s": [round(cpu, 3) for cpu, _ in runs],
        "peak_mib": peak_mib(),
        "scores": scores,
        "version": sglang.__version__,
    }
    engine.shutdown()
    return report


def main():
    task = json.loads(sys.argv[1])
    out = os.dup(1)
    report = measure(task, Log(task["log"]))
    os.write(out, json.dumps(report).encode())


if __name__ == "__main__":
    main()
