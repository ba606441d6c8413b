"""Serves an application on the port that the first argument names, and says so."""

import asyncio
import sys

import uvicorn


def serve(app, **settings) -> None:
    config = uvicorn.Config(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning",
                            timeout_graceful_shutdown=1, **settings)
    asyncio.run(run(uvicorn.Server(config)))


async def run(server: uvicorn.Server) -> None:
    serving = asyncio.create_task(server.serve())
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    print("serving", flush=True)
    await serving
