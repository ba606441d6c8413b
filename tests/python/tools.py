"""An MCP server on the official Python SDK, over streamable HTTP.

It prints what happens to calls, so that a test can wait for it.
"""

import os

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel
from starlette.responses import PlainTextResponse

from serving import serve

TOKEN = os.environ.get("TOOLS_TOKEN")


def say(text: str) -> None:
    print(text, flush=True)


class Sum(BaseModel):
    total: int


server = MCPServer("tools")


@server.tool()
def add(a: int, b: int) -> Sum:
    """Adds two numbers."""
    return Sum(total=a + b)


@server.tool(structured_output=False)
def greet(name: str) -> str:
    """Greets somebody."""
    return f"hello, {name}"


@server.tool()
def fail(why: str) -> str:
    """Fails."""
    raise ToolError(why)


@server.tool()
async def slow(context: Context) -> str:
    """Takes for ever, and says how far it is."""
    say("slow: begun")
    try:
        n = 0
        while True:
            n += 1
            await context.report_progress(n)
            await anyio.sleep(0.05)
    except BaseException:
        say("slow: cancelled")
        raise


@server.tool()
async def learn(name: str, context: Context) -> bool:
    """Adds a tool of this name, and tells the clients."""

    def learned(text: str) -> str:
        return text.upper()

    server.add_tool(learned, name=name, structured_output=False)
    await context.notify_tools_changed()
    try:
        await context.session.send_tool_list_changed()
    except Exception as error:  # only sessions of earlier versions have such a channel
        say(f"learn: {type(error).__name__}")
    return True


class Guard:
    """Lets in who holds the token."""

    def __init__(self, app) -> None:
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http" and TOKEN is not None:
            held = dict(scope["headers"]).get(b"authorization", b"").decode()
            if held != f"Bearer {TOKEN}":
                headers = {"WWW-Authenticate": "Bearer"}
                response = PlainTextResponse("no", status_code=401, headers=headers)
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)


if __name__ == "__main__":
    serve(Guard(server.streamable_http_app()))
