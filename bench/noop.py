"""The limit of the receiver: the smallest FastAPI endpoint there is. Served by uvicorn as the product is."""

from __future__ import annotations

from fastapi import FastAPI

app = FastAPI()


@app.post("/noop", response_model=None)
async def noop() -> dict[str, bool]:
    """Answer without looking at the body."""
    return {"ok": True}
