"""The real LiteLLM proxy, offline: models that answer PONG, one key, no database."""

from __future__ import annotations

import os
import re
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import yaml
from tests.gateways.relay import Relay
from tests.support.upstream import Upstream

VENV = Path(__file__).parents[2] / ".venv-litellm"
PYTHON = VENV / "bin" / "python"
VIRTUAL_KEY = "sk-litellm-virtual-key-0123456789abcdef"
START_SECONDS = 90
STOP_SECONDS = 10
_RUNNING = re.compile(r"running on http://127\.0\.0\.1:(\d+)")


class LiteLLM:
    """`litellm` on any free loopback port. Use as a context manager.

    LiteLLM mocks no stream on ``/v1/messages`` and nothing below ``/gemini``. There it asks its
    own mocked models over loopback instead, so that its translations run too. It can reach
    nothing else: every proxy variable leads to a closed port.
    """

    def __init__(self, folder: Path) -> None:
        self.log_file = folder / "litellm.log"
        self.config_file = folder / "litellm.yaml"
        self._folder = folder

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            itself = Relay()
            loop_back = stack.enter_context(Upstream("litellm", handler=itself, tls=False))
            url = f"http://{loop_back.connect_to}"
            self.config_file.write_text(yaml.safe_dump(_config(url)))
            with self.log_file.open("wb") as log:
                self.process = subprocess.Popen(
                    [
                        *(VENV / "bin" / "litellm", "--config", self.config_file),
                        *("--host", "127.0.0.1", "--port", "0"),
                    ],
                    env=_environ(self._folder, url),
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            stack.callback(self._stop)
            self.port = itself.port = self._wait_for_port()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _wait_for_port(self) -> int:
        deadline = time.monotonic() + START_SECONDS
        while (running := _RUNNING.search(self.log_file.read_text())) is None:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"litellm did not start:\n{self.log_file.read_text()}")
            time.sleep(0.05)
        return int(running[1])

    def _stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _config(own_url: str) -> dict[str, object]:
    return {
        "model_list": [
            _mocked("gpt-pretend", "openai/gpt-pretend", "PONG"),
            _mocked("gpt-limited", "openai/gpt-limited", "litellm.RateLimitError"),
            _mocked("gemini-pretend", "gemini/gemini-pretend", "PONG"),
            {
                "model_name": "claude-pretend",
                "litellm_params": {
                    "model": "litellm_proxy/gpt-pretend",
                    "api_base": f"{own_url}/v1",
                    "api_key": VIRTUAL_KEY,
                },
            },
        ],
        "general_settings": {"master_key": VIRTUAL_KEY},
        "router_settings": {"num_retries": 0},
    }


def _mocked(name: str, model: str, answer: str) -> dict[str, object]:
    params = {"model": model, "api_key": "unused", "mock_response": answer}
    return {"model_name": name, "litellm_params": params}


def _environ(home: Path, own_url: str) -> dict[str, str]:
    nowhere = "http://127.0.0.1:9"
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
        "GEMINI_API_BASE": own_url,
        "GEMINI_API_KEY": VIRTUAL_KEY,
        "HTTP_PROXY": nowhere,
        "HTTPS_PROXY": nowhere,
        "NO_PROXY": "127.0.0.1",
    }
