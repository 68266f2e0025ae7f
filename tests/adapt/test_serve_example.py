"""The example server, over real connections on this machine."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import random
import socket
import time
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

import secateur as sc

pytest.importorskip("starlette", reason="the example serves with starlette")
uvicorn = pytest.importorskip("uvicorn", reason="the example serves with uvicorn")


@pytest.fixture(scope="module")
def example() -> Any:
    path = Path(__file__).parents[2] / "examples" / "serve.py"
    spec = importlib.util.spec_from_file_location("serve_example", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_requests_are_answered_and_turn_the_dial(example: Any) -> None:
    dial = sc.dial(example.network(8), torch.randn(example.SHAPE), levels=[1.0, 0.5])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = example.application(dial, target_ms=1e-3)  # nothing is that fast
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = Thread(target=server.run)
    thread.start()
    try:
        for _ in range(200):
            if server.started:
                break
            time.sleep(0.05)

        async def ask() -> tuple[Any, list[float], str]:
            client = example.Client(port)
            first = json.loads(await client.send(body=client.body))
            taken = await client.load(100.0, 0.3, random.Random(0))
            report = (await client.send("/report")).decode()
            await client.close()
            return first, taken, report

        first, taken, report = asyncio.run(ask())
    finally:
        server.should_exit = True
        thread.join()
    assert len(first["scores"]) == 10 and first["level"] == 1.0
    assert len(taken) > 10 and all(ms > 0 for ms in taken)
    assert dial.level == 0.5 and "requests took more than 0.001 ms" in report
