"""An MCP server on the official Python SDK that lists its tools a few at a time."""

import mcp_types as types
from mcp.server.lowlevel import Server

from serving import serve

TOOLS = 25
PAGE = 10


async def list_tools(context, params) -> types.ListToolsResult:
    first = int(params.cursor) if params and params.cursor else 0
    print(f"listing from {first}", flush=True)
    end = min(first + PAGE, TOOLS)
    tools = [types.Tool(name=f"tool{n}", input_schema={"type": "object"}) for n in range(first, end)]
    return types.ListToolsResult(tools=tools, next_cursor=str(end) if end < TOOLS else None)


async def call_tool(context, params) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=params.name)])


if __name__ == "__main__":
    server = Server("pages", on_list_tools=list_tools, on_call_tool=call_tool)
    serve(server.streamable_http_app())
