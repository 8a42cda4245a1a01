"""NeMo Gym: the resources server's own web server under uvicorn, POST /verify.

`PYTHONPATH=. python tests/adapters/real/run_nemo_gym.py`
"""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import MagicMock

import uvicorn
from case import ANSWERS, LIVE, PROMPT, REFERENCE, close, report, stops, use, wanted
from nemo_gym.base_resources_server import BaseResourcesServerConfig
from nemo_gym.server_utils import ServerClient

from polar_ray.adapters.nemo_gym import PolarResourcesServer

CONFIG = BaseResourcesServerConfig(host="127.0.0.1", port=0, entrypoint="", name="polar")


def body(text: str, reference: Any) -> dict[str, Any]:
    said = {"type": "output_text", "text": text, "annotations": []}
    thought = {"id": "t", "type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
    message = {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [said],
    }
    return {
        "responses_create_params": {"input": [{"role": "user", "content": PROMPT}]},
        "response": {
            "id": "r",
            "created_at": 1.0,
            "model": "m",
            "object": "response",
            "parallel_tool_calls": False,
            "tool_choice": "none",
            "tools": [],
            "output": [thought, message],
        },
        "reference": reference,
        "extra_column": "kept",
    }


class Server:
    def __init__(self) -> None:
        client = MagicMock(spec=ServerClient)
        app = PolarResourcesServer(config=CONFIG, server_client=client).setup_webserver()
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical")
        self.server = uvicorn.Server(config)
        threading.Thread(target=self.server.run, daemon=True).start()
        while not self.server.started:
            time.sleep(0.05)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/verify"

    def verify(self, given: dict[str, Any]) -> dict[str, Any]:
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(self.url, json.dumps(given).encode(), headers)
        try:
            with urllib.request.urlopen(request) as answer:
                found: dict[str, Any] = json.loads(answer.read())
                return found
        except urllib.error.HTTPError as error:
            said = error.read().decode()
            raise RuntimeError(f"{error.code}: {said}") from None

    def rewards(self, bad: int | None = None) -> list[float]:
        rows = [body(text, None if at == bad else REFERENCE) for at, text in enumerate(ANSWERS)]
        with ThreadPoolExecutor(4) as threads:
            return [one["reward"] for one in threads.map(self.verify, rows)]


def main() -> None:
    server = Server()
    stops(server.rewards, lambda: server.rewards(bad=1))
    use(LIVE)
    kept = server.verify(body(ANSWERS[0], REFERENCE))["extra_column"] == "kept"
    report("trap", name="other columns come back", right=kept)
    found = server.rewards()
    report("trap", name="never null", right=close(found, wanted()))
    mean = sum(found) / 4
    report("advantages", of=[one - mean for one in found])
    server.server.should_exit = True


if __name__ == "__main__":
    main()
