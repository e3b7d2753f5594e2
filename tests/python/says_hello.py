"""Whether the Python MCP SDK gets a session with a stdio server.

usage: says_hello.py COMMAND [ARG...]
Prints `connected`, or `refused` where the server ended before it answered."""

import asyncio
import sys

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client


async def main():
    command, *args = sys.argv[1:]
    async with stdio_client(StdioServerParameters(command=command, args=args)) as (read, write):
        async with ClientSession(read, write) as session:
            await asyncio.wait_for(session.initialize(), 240)
            await session.list_tools()


try:
    asyncio.run(main())
except Exception as error:
    print(repr(error), file=sys.stderr)
    print("refused")
else:
    print("connected")
