"""Drives the door with the Python MCP SDK 2's own client, which speaks 2026-07-28 where the other end does.

usage: alone_over_http.py SERVER TOOL ARGUMENTS URL
The token is read from standard input. Prints one JSON object."""

import asyncio
import json
import sys

from mcp.client import Client, streamable_http


async def main():
    server, tool, arguments, url = sys.argv[1:]
    headers = {"Authorization": f"Bearer {sys.stdin.read().strip()}"}
    async with streamable_http.create_mcp_http_client(headers=headers) as http:
        async with Client(streamable_http.streamable_http_client(url, http_client=http)) as client:
            tools = await client.list_tools()
            call = {"server": server, "tool": tool, "arguments": json.loads(arguments)}
            called = await client.call_tool("call_tool", call)
            print(
                json.dumps(
                    {
                        "version": client.protocol_version,
                        "tools": [tool.name for tool in tools.tools],
                        "called": called.model_dump(mode="json", by_alias=True, exclude_none=True),
                    }
                )
            )


asyncio.run(main())
