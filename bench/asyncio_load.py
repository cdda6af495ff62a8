"""The stand-in for wrk: `python -m bench.asyncio_load URL CONNECTIONS SECONDS SALT EVENTS TS`.

Belongs here: the same load as `events.lua`, the same last line of output. Does not: being fast.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from urllib.parse import urlsplit

from bench.measure import percentile


async def main(url: str, connections: int, seconds: float, salt: str, events: int, ts: str) -> None:
    """Drive the load, then print the figures as one line of JSON."""
    target = urlsplit(url)
    counter = itertools.count(1)
    latencies: list[float] = []
    bad = 0
    deadline = time.perf_counter() + seconds

    async def one_connection() -> None:
        nonlocal bad
        reader, writer = await asyncio.open_connection(target.hostname, target.port)
        while time.perf_counter() < deadline:
            body = _body(counter, salt, events, ts)
            head = f"POST {target.path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
            started = time.perf_counter()
            writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            bad += not await _answered_ok(reader)
            latencies.append((time.perf_counter() - started) * 1000)
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(one_connection() for _ in range(connections)))
    elapsed = time.perf_counter() - started
    shown = {f"p{pct}": percentile(latencies, pct) for pct in (50, 95, 99)}
    print(json.dumps({"requests": len(latencies), "seconds": elapsed, "bad": bad, **shown}))


def _body(counter: itertools.count[int], salt: str, events: int, ts: str) -> bytes:
    return json.dumps(
        {
            "events": [
                {
                    "idempotencyKey": f"{salt}-{number:015d}",
                    "tenantId": "bench",
                    "metric": "api_calls",
                    "customerRef": f"customer_{number * 7919 % 1000:08d}",
                    "quantity": 1.25,
                    "ts": ts,
                    "meta": {"region": "eu-west-1", "plan": "pro"},
                }
                for number in itertools.islice(counter, events)
            ]
        }
    ).encode()


async def _answered_ok(reader: asyncio.StreamReader) -> bool:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    await reader.readexactly(length)
    return head.startswith(b"http/1.1 2")


if __name__ == "__main__":
    address, connection_count, duration, prefix, event_count, event_ts = sys.argv[1:]
    asyncio.run(main(address, int(connection_count), float(duration), prefix, int(event_count), event_ts))
