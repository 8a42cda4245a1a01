"""What of sglang's interface is used, without a model: scores are a function of ids and weights.

It has sglang's bad habits: it dies of bad input, keeps its cache through an update unless that was
flushed, and is flushed only when it has nothing to do. FAKE_SGLANG has words that make it worse.
Each request is written to FAKE_SGLANG_LOG as it comes and as it is answered.
"""

import asyncio
import hashlib
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

__version__ = "0.0.fake"

FAULTS = os.environ.get("FAKE_SGLANG", "").split()
FAILING, HANGING, FATAL = 13, 14, 15
"""Records of this one id fail, are never answered, end the scheduler."""

VOCABULARY = 400


def score(ids, weights):
    """Of one record, by a model whose file of weights has these bytes."""
    hashed = hashlib.blake2b(hashlib.sha256(weights).digest(), digest_size=4)
    hashed.update(",".join(map(str, ids)).encode())
    return int.from_bytes(hashed.digest(), "little") / 2**32 * 13 - 12


def note(text):
    with open(os.environ["FAKE_SGLANG_LOG"], "a") as log:
        log.write(text + "\n")


def weights_of(path):
    return (Path(path) / "model.safetensors").read_bytes()


class Manager:
    def __init__(self, model_path, scheduler):
        self.weights = weights_of(model_path)
        self.scheduler = scheduler
        self.cache = {}
        self.flushes = 0

    async def generate_request(self, request, _):
        ids = request.input_ids
        if not ids or min(ids) < 0 or max(ids) >= VOCABULARY or ids == [FATAL]:
            self.scheduler.kill()
            await asyncio.Event().wait()
        if ids == [HANGING]:
            await asyncio.Event().wait()
        if ids == [FAILING]:
            raise ValueError("thirteen")
        note(f"sent {ids[-1]}")
        await asyncio.sleep(0.01)
        cached = 1 if tuple(ids) in self.cache else 0
        print(f"Prefill batch, #new-seq: 1, #new-token: {len(ids)}, #cached-token: {cached}")
        found = self.cache.setdefault(tuple(ids), score(ids, self.weights))
        note(f"done {ids[-1]}")
        yield {"embedding": [found + ("wrong" in FAULTS)]}

    async def flush_cache(self, timeout_s):
        self.flushes += 1
        if self.flushes > 1:
            self.cache.clear()
        return SimpleNamespace(success=self.flushes > 1)

    async def update_weights_from_disk(self, request, _):
        if "no_update" in FAULTS:
            return False, "no update today", 0
        self.weights = weights_of(request.model_path)
        self.flushes = 0
        return True, "", 0


class Engine:
    def __init__(self, **arguments):
        note(f"start {arguments['device']} {arguments['dtype']}")
        if "no_start" in FAULTS:
            print("the last words")
            raise RuntimeError("no start today")
        self.loop = asyncio.new_event_loop()
        self.scheduler = subprocess.Popen(["sleep", "1000"])
        self.tokenizer_manager = Manager(arguments["model_path"], self.scheduler)
        room = 100 if "narrow" in FAULTS else arguments["max_total_tokens"]
        info = {"max_total_num_tokens": room, "max_req_input_len": room - 6}
        self._scheduler_init_result = SimpleNamespace(scheduler_infos=[info])

    def get_all_child_pids(self):
        return [self.scheduler.pid]
