"""A client on the official Python MCP SDK, in the protocol's newest version and in
the one before. It prints what it gets as lines of JSON."""

import json
import ssl
import sys

import anyio
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

url, certificate, token = sys.argv[1:4]


async def ask(mode: str) -> None:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    trust = ssl.create_default_context(cafile=certificate)
    async with httpx2.AsyncClient(verify=trust, headers=headers) as http:
        async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
            tools = [tool.name for tool in (await client.list_tools()).tools]
            print(json.dumps({"version": client.protocol_version, "tools": tools}))
            for name, arguments in json.loads(sys.argv[4]):
                result = await client.call_tool(name, arguments)
                told = {"error": result.is_error, "content": result.structured_content}
                print(json.dumps(told))


async def main() -> None:
    for mode in ["auto", "legacy"]:
        await ask(mode)


anyio.run(main)
