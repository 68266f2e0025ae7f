"""Serves a dial over HTTP, and holds its 95th percentile while the load triples.

    pip install 'secateur[serve]'
    python examples/serve.py            # the load test: fixed model, then dial; about a minute
    python examples/serve.py serve      # only the server: POST float32 images to /predict

Requests wait for one worker. What a request took, with its time in the queue, is told to
`sc.adapt.Controller`, which turns the dial. The load generator sends requests at random moments
(Poisson), whether or not earlier ones were answered, so that a server that is too slow falls
behind. The weights are random: this shows times, not answers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn

import secateur as sc

SHAPE = (1, 3, 32, 32)
LEVELS = (1.0, 0.5, 0.25, 0.12)


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.two(torch.relu(self.one(x))))


def network(width: int = 96) -> nn.Module:
    """A residual network for images of 32 x 32, some milliseconds for each."""
    torch.manual_seed(0)
    blocks = [Block(width) for _ in range(3)]
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(width, 10),
    ).eval()  # fmt: skip


def application(dial: Any, target_ms: float | None) -> Any:
    """The server; without a target the dial stays where it is."""
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, PlainTextResponse
    from starlette.routing import Route

    controller = None if target_ms is None else sc.adapt.Controller(dial, target_ms)
    worker = ThreadPoolExecutor(1)

    def run(x: Tensor) -> tuple[list[float], float]:
        level = dial.level
        with torch.no_grad():
            return dial(x)[0].tolist(), level

    async def predict(request: Any) -> Any:
        start = time.perf_counter()
        x = torch.frombuffer(bytearray(await request.body()), dtype=torch.float32).reshape(SHAPE)
        scores, level = await asyncio.get_running_loop().run_in_executor(worker, run, x)
        if controller is not None:
            controller.observe(1000 * (time.perf_counter() - start), level)
        return JSONResponse({"scores": scores, "level": level})

    async def report(request: Any) -> Any:
        return PlainTextResponse(f"level {dial.level:g}" if controller is None else str(controller))

    @asynccontextmanager
    async def life(app: Any) -> AsyncIterator[None]:
        yield
        worker.shutdown()

    routes = [Route("/predict", predict, methods=["POST"]), Route("/report", report)]
    return Starlette(routes=routes, lifespan=life)


def serve(port: int, target_ms: float | None) -> None:
    """Run the server until it is stopped."""
    import uvicorn

    torch.set_num_threads(1)
    x = torch.randn(SHAPE)  # of a trained network, data=images would have the levels repaired
    dial = sc.dial(network(), x, levels=LEVELS, cache=len(LEVELS))
    dial.measure(x)  # so that the controller knows what each level takes
    print(dial, flush=True)
    app = application(dial, target_ms)
    uvicorn.run(app, port=port, log_level="warning", access_log=False, timeout_keep_alive=600)


class Client:
    """Sends requests to a server on this machine, over connections that stay open."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.body = torch.randn(SHAPE).numpy().tobytes()

    async def send(self, path: str = "/predict", body: bytes | None = None) -> bytes:
        """One request; returns what the server answers."""
        method = "GET" if body is None else "POST"
        reader, writer = (
            self.free.pop() if self.free else await asyncio.open_connection("127.0.0.1", self.port)
        )
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body or b'')}\r\n\r\n"
        writer.write(head.encode() + (body or b""))
        found = (await reader.readuntil(b"\r\n\r\n")).lower()
        size = int(found.split(b"content-length:")[1].split(b"\r\n")[0])
        answer = await reader.readexactly(size)
        self.free.append((reader, writer))
        return answer

    async def close(self) -> None:
        """End the connections that are open."""
        while self.free:
            writer = self.free.pop()[1]
            writer.close()
            await writer.wait_closed()

    async def latency(self) -> float:
        """Milliseconds of one prediction."""
        start = time.perf_counter()
        await self.send(body=self.body)
        return 1000 * (time.perf_counter() - start)

    async def load(self, rate: float, seconds: float, draw: random.Random) -> list[float]:
        """The latencies of requests at random moments, `rate` a second on average."""
        tasks, end, when = [], time.perf_counter() + seconds, time.perf_counter()
        while (when := when + draw.expovariate(rate)) < end:
            await asyncio.sleep(max(0.0, when - time.perf_counter()))
            tasks.append(asyncio.create_task(self.latency()))
        return list(await asyncio.gather(*tasks))


async def phases(port: int, base: float | None, seconds: float) -> dict[str, Any]:
    """Light load, three times as much, and light load again."""
    client, draw = Client(port), random.Random(0)
    alone = [await client.latency() for _ in range(60)][10:]
    rate = base or 0.4 * 1000 / median(alone)
    found: dict[str, Any] = {"alone_ms": median(alone), "rate": rate, "p95": {}, "requests": {}}
    for name, times in (("light", 1), ("tripled", 3), ("light again", 1)):
        taken = await client.load(times * rate, seconds, draw)
        found["p95"][name], found["requests"][name] = quantiles(taken, n=20)[-1], len(taken)
    found["report"] = (await client.send("/report")).decode()
    await client.close()
    return found


def run(target_ms: float | None, base: float | None, seconds: float, port: int) -> dict[str, Any]:
    """Start a server in a process of its own, put load on it, and stop it."""
    command = [sys.executable, __file__, "serve", "--port", str(port)]
    if target_ms is not None:
        command += ["--target", str(target_ms)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            asyncio.run(_ready(port, process))
            return asyncio.run(phases(port, base, seconds))
        finally:
            process.terminate()


async def _ready(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"the server ended with {process.returncode}")
        try:
            client = Client(port)
            await client.send("/report")
            await client.close()
            return
        except OSError:
            await asyncio.sleep(0.2)
    raise SystemExit("the server did not start")


def compare(seconds: float = 8.0, port: int = 8765) -> dict[str, Any]:
    """The fixed model, and then the dial under the same load.

    The light load keeps the whole model busy for two fifths of the time; the target is five times
    what a request takes alone.
    """
    fixed = run(None, None, seconds, port)
    target = 5 * fixed["alone_ms"]
    dial = run(target, fixed["rate"], seconds, port + 1)
    return {"target_ms": target, "fixed": fixed, "dial": dial}


def main() -> None:
    """The load test, or the server alone."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=["test", "serve"], default="test")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--target", type=float, help="the 95th percentile to hold, in milliseconds")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each phase of the load")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.what == "serve":
        serve(options.port, options.target)
        return
    found = compare(options.seconds, options.port)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    print(f"target: 95 % of the requests within {found['target_ms']:.1f} ms")
    for name in ("fixed", "dial"):
        each = ", ".join(f"{phase} {ms:.1f} ms" for phase, ms in found[name]["p95"].items())
        print(f"{name}: 95th percentile {each}")
    print(found["dial"]["report"])


if __name__ == "__main__":
    main()
