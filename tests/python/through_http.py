"""Drives the door over HTTP with the Python MCP SDK (generation 1 or 2): list, search, describe, call.

usage: through_http.py QUERY SERVER TOOL ARGUMENTS URL
The token is read from standard input. Prints one JSON object: what each step answered."""

import asyncio
import contextlib
import json
import sys

from mcp import ClientSession
from mcp.client import streamable_http


def plain(result):
    return result.model_dump(mode="json", by_alias=True, exclude_none=True)


@contextlib.asynccontextmanager
async def connected(url, headers):
    if hasattr(streamable_http, "streamablehttp_client"):
        async with streamable_http.streamablehttp_client(url, headers=headers) as streams:
            yield streams
    else:
        async with streamable_http.create_mcp_http_client(headers=headers) as client:
            async with streamable_http.streamable_http_client(url, http_client=client) as streams:
                yield streams


async def main():
    query, server, tool, arguments, url = sys.argv[1:]
    headers = {"Authorization": f"Bearer {sys.stdin.read().strip()}"}
    progress = []

    async def heard(done, total, message):
        progress.append(done)

    async with connected(url, headers) as (read, write, *_), ClientSession(read, write) as session:
        begun = await session.initialize()
        tools = await session.list_tools()
        search = await session.call_tool("search_tools", {"query": query})
        described = await session.call_tool("describe_tool", {"server": server, "tool": tool})
        call = {"server": server, "tool": tool, "arguments": json.loads(arguments)}
        called = await session.call_tool("call_tool", call, progress_callback=heard)
    print(
        json.dumps(
            {
                "version": plain(begun)["protocolVersion"],
                "tools": [tool.name for tool in tools.tools],
                "search": plain(search),
                "described": plain(described),
                "called": plain(called),
                "progress": progress,
            }
        )
    )


asyncio.run(main())
