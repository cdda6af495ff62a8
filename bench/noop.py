"""The limit of the receiver: the smallest FastAPI endpoint there is, served as our workers are.

`python -m bench.noop --fd N`. uvicorn's own `--fd` takes any socket for a Unix one, so TCP_NODELAY stays off and every
answer waits 40 ms for a delayed acknowledgement: a limit six times too low.
"""

from __future__ import annotations

import socket
import sys

import uvicorn
from fastapi import FastAPI

app = FastAPI()


@app.post("/noop", response_model=None)
async def noop() -> dict[str, bool]:
    """Answer without looking at the body."""
    return {"ok": True}


def main(fd: int) -> None:
    """Serve until a signal: one worker, uvloop, httptools, no access log."""
    config = uvicorn.Config(app, loop="uvloop", http="httptools", lifespan="off", access_log=False, log_config=None)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=fd)])


if __name__ == "__main__":
    main(int(sys.argv[sys.argv.index("--fd") + 1]))
