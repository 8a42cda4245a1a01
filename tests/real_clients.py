"""Runs a trainer's own client of a reward server, unmodified, in that trainer's environment.

`python real_clients.py CLIENT HOST:PORT` asks for one record's reward and prints what the client
made of the answer. Neither polar_ray nor pytest is there.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from types import SimpleNamespace as Names
from typing import Any

PROMPT = "What is the capital of China?"
REFERENCE = "Beijing."
OUTPUT = 'It is "北京", I\nthink.'

CHAT_TEMPLATE = (
    "{%- set prompt = messages[:-1] | rejectattr('role', 'equalto', 'reference')"
    " | map(attribute='content') | join('\n') -%}"
    "{%- set reference = messages | selectattr('role', 'equalto', 'reference')"
    " | map(attribute='content') | join('\n') -%}"
    "{{ prompt + '\n' + reference + '<|reward|>' + prompt + '\n' + messages[-1].content"
    " + '[UNUSED_TOKEN_130]' }}"
)
"""Has a tokenizer write POLAR's text. The reference is a message of that role."""


def verl(address: str, engine: str) -> float:
    """`RewardLoopWorker.compute_score_disrm`."""
    import numpy as np
    import torch
    from tensordict import TensorDict
    from verl import DataProto
    from verl.experimental.reward_loop.reward_loop import RewardLoopWorker

    tokenizer = bytes_tokenizer()
    worker = object.__new__(RewardLoopWorker)
    worker.input_tokenizer = worker.reward_model_tokenizer = tokenizer
    worker.reward_router_address = address
    model = Names(model_path="internlm/POLAR-7B", rollout=Names(name=engine))
    worker.config = Names(reward=Names(reward_model=model))
    ids = tokenizer(OUTPUT)["input_ids"] + [tokenizer.eos_token_id]
    tensors = {"responses": torch.tensor([ids]), "attention_mask": torch.ones(1, 2 + len(ids))}
    messages = np.empty(1, dtype=object)
    messages[0] = [
        {"role": "reference", "content": REFERENCE},
        {"role": "user", "content": PROMPT},
    ]
    tensors["attention_mask"] = tensors["attention_mask"].long()
    data = DataProto(
        batch=TensorDict(tensors, batch_size=1), non_tensor_batch={"raw_prompt": messages}
    )
    return asyncio.run(worker.compute_score_disrm(data))["reward_score"]


def openrlhf(address: str) -> float:
    """`SingleTurnAgentExecutor.execute` with the address of a remote reward model."""
    from openrlhf.utils.agent import SingleTurnAgentExecutor

    tokenizer = bytes_tokenizer()

    class Engine:
        async def generate(self, ids: list[int], params: Any, multi_modal_data: Any = None) -> Any:
            ids = tokenizer(OUTPUT)["input_ids"] + [tokenizer.eos_token_id]
            said = Names(token_ids=ids, text=OUTPUT, finish_reason="stop", logprobs=None)
            return Names(outputs=[said])

    executor = SingleTurnAgentExecutor([f"http://{address}/get_reward"])
    params = Names(max_tokens=200, logprobs=None)
    call = executor.execute(PROMPT, REFERENCE, params, 400, tokenizer, Engine())
    done = asyncio.run(call)
    assert done["reward"] == done["scores"], done
    return float(done["reward"][0] if isinstance(done["reward"], list) else done["reward"])


def slime(address: str) -> float:
    """`remote_rm`."""
    from slime.rollout.rm_hub import remote_rm
    from slime.utils.types import Sample

    sample = Sample(prompt=[{"role": "user", "content": PROMPT}], label=REFERENCE)
    sample.response = OUTPUT
    args = Names(rm_url=f"http://{address}/reward")
    return asyncio.run(remote_rm(args, sample, max_retries=1))


def bytes_tokenizer() -> Any:
    """One token for each byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={name: at for at, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


if __name__ == "__main__":
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", no_proxy="127.0.0.1")
    client, _, engine = sys.argv[1].partition("-")
    arguments = (engine,) if engine else ()
    reward = {"verl": verl, "openrlhf": openrlhf, "slime": slime}[client](sys.argv[2], *arguments)
    print(json.dumps({"reward": reward}))
