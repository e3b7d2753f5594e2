"""Drives the door with the Python MCP SDK (generation 1 or 2): list, search, describe, call.

usage: through_the_door.py QUERY SERVER TOOL ARGUMENTS COMMAND [ARG...]
Prints one JSON object: what each step answered."""

import asyncio
import json
import os
import sys

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client


def plain(result):
    return result.model_dump(mode="json", by_alias=True, exclude_none=True)


async def main():
    query, server, tool, arguments, command, *args = sys.argv[1:]
    parameters = StdioServerParameters(command=command, args=args, env=dict(os.environ))
    async with stdio_client(parameters) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        tools = await session.list_tools()
        search = await session.call_tool("search_tools", {"query": query})
        described = await session.call_tool("describe_tool", {"server": server, "tool": tool})
        call = {"server": server, "tool": tool, "arguments": json.loads(arguments)}
        called = await session.call_tool("call_tool", call)
    print(
        json.dumps(
            {
                "tools": [tool.name for tool in tools.tools],
                "search": plain(search),
                "described": plain(described),
                "called": plain(called),
            }
        )
    )


asyncio.run(main())
