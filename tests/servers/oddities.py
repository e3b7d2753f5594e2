"""An MCP server over stdio whose answers hold what careless proxies change: big and odd numbers, unknown
members at every level, members in a strange order, escapes. Standard library only."""

import json
import sys

# Written out, because json.dumps would normalise what matters here.
ODD = (
    '{"zeta":1,"content":[{"text":"caf\\u00e9 \\/ \\ud83d\\ude00 é","type":"text","x-unknown":{"b":1.0,"a":1e2}}],'
    '"structuredContent":{"big":12345678901234567890123,"one":1.0,"exp":1E+2,"tiny":1e-400,"minus":-0.0,'
    '"precise":0.1000000000000000055511151231257827,"null":null,"empty":{},"list":[3,1,2]},'
    '"isError":false,"_meta":{"b":2,"a":1},"alpha":true}'
)
TOOLS = (
    '[{"name":"odd","description":"Answers with odd numbers and unknown members","x-vendor":{"z":1.0},'
    '"inputSchema":{"type":"object","properties":{}},"annotations":{"readOnlyHint":true,"x-extra":1}},'
    '{"name":"mirror","description":"Gives back the arguments exactly as they arrived",'
    '"inputSchema":{"type":"object"}}]'
)


def raw_arguments(line):
    """The text of params.arguments as it stands in the line."""
    start = line.index('"arguments":') + len('"arguments":')
    decoder = json.JSONDecoder()
    _, end = decoder.raw_decode(line, start)
    return line[start:end]


def answer(line):
    message = json.loads(line)
    method = message.get("method")
    if "id" not in message:
        return None
    if method == "initialize":
        version = json.dumps(message["params"]["protocolVersion"])
        return (
            '{"protocolVersion":%s,"capabilities":{"tools":{}},"serverInfo":{"name":"oddities","version":"1"}}' % version
        )
    if method == "ping":
        return "{}"
    if method == "tools/list":
        return '{"tools":%s}' % TOOLS
    if method == "tools/call" and message["params"]["name"] == "odd":
        return ODD
    if method == "tools/call" and message["params"]["name"] == "mirror":
        return '{"content":[{"type":"text","text":%s}]}' % json.dumps(raw_arguments(line))
    return ""


for line in sys.stdin:
    line = line.strip()
    if not line:
        continue
    result = answer(line)
    if result is None:
        continue
    identity = json.dumps(json.loads(line)["id"])
    if result == "":
        error = '{"code":-32601,"message":"no such method"}'
        print('{"jsonrpc":"2.0","id":%s,"error":%s}' % (identity, error), flush=True)
    else:
        print('{"jsonrpc":"2.0","id":%s,"result":%s}' % (identity, result), flush=True)
