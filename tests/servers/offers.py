"""An MCP server over stdio with everything that can be offered: tools, prompts, resources, templates, completions and
log messages, with unknown members, odd numbers and escapes in all of it. Standard library only."""

import json
import sys

CAPABILITIES = '{"tools":{},"prompts":{},"resources":{},"completions":{},"logging":{}}'
IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="

LISTS = {
    "tools/list": (
        '{"tools":[{"name":"chat","description":"Says three things while it works","inputSchema":{"type":"object"}},'
        '{"name":"curious","description":"Asks its client for something","inputSchema":{"type":"object"}},'
        '{"name":"torn","description":"Wants a header that no client can send","inputSchema":{"type":"object",'
        '"properties":{"a":{"type":"array","items":{"type":"string","x-mcp-header":"A"}}}}}]}'
    ),
    "prompts/list": (
        '{"prompts":[{"name":"plain","description":"No arguments"},'
        '{"name":"with_args","x-unknown":1.0,"arguments":[{"name":"who","required":true},{"name":"what"}]},'
        '{"name":"with_image","title":"caf\\u00e9"}]}'
    ),
    "resources/list": (
        '{"resources":[{"uri":"test://static-text","name":"text","mimeType":"text/plain","size":1.0},'
        '{"uri":"test://static-binary","name":"binary","mimeType":"image/png"},'
        '{"uri":"file:///srv/secret/key","name":"key"}]}'
    ),
    "resources/templates/list": (
        '{"resourceTemplates":[{"uriTemplate":"test://template/{id}/data","name":"data","x-unknown":{"z":1e2}}]}'
    ),
}
PROMPTS = {
    "plain": '{"messages":[{"role":"user","content":{"type":"text","text":"Pl\\u0061in"}}],"n":1.0}',
    "with_image": '{"messages":[{"role":"user","content":{"type":"image","mimeType":"image/png","data":"%s"}}]}' % IMAGE,
}
RESOURCES = {
    "test://static-text": '{"contents":[{"uri":"test://static-text","mimeType":"text/plain","text":"\\/ \\ud83d\\ude00"}]}',
    "test://static-binary": '{"contents":[{"uri":"test://static-binary","mimeType":"image/png","blob":"%s"}]}' % IMAGE,
    "file:///srv/secret/key": '{"contents":[{"uri":"file:///srv/secret/key","text":"the key"}]}',
}


def say(text):
    print(text, flush=True)


def answer(method, params):
    if method in LISTS:
        return LISTS[method]
    if method == "prompts/get":
        if params["name"] == "with_args":
            text = json.dumps("For " + json.dumps(params.get("arguments")))
            return '{"messages":[{"role":"user","content":{"type":"text","text":%s}}]}' % text
        return PROMPTS.get(params["name"])
    if method == "resources/read":
        uri = params["uri"]
        if uri.startswith("test://template/") and uri.endswith("/data"):
            return '{"contents":[{"uri":%s,"text":"1.0"}],"z":1,"a":2}' % json.dumps(uri)
        return RESOURCES.get(uri)
    if method == "completion/complete":
        values = [params["argument"]["value"] + "1", params["ref"].get("name", params["ref"].get("uri"))]
        return '{"completion":{"values":%s,"total":2,"hasMore":false,"x":1.0}}' % json.dumps(values, separators=(",", ":"))
    if method == "tools/call" and params["name"] == "chat":
        token = json.dumps(params.get("_meta", {}).get("progressToken", 0))
        for step, level in enumerate(["debug", "info", "error"]):
            say('{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"%s","data":1.0}}' % level)
            say(
                '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":%s,"progress":%d.0}}'
                % (token, step)
            )
        return '{"content":[{"type":"text","text":"done"}]}'
    if method == "tools/call" and params["name"] == "curious":
        said = []
        for ask in ["elicitation/create", "sampling/createMessage", "roots/list"]:
            say('{"jsonrpc":"2.0","id":"%s","method":"%s","params":{}}' % (ask, ask))
            said.append(json.loads(sys.stdin.readline())["error"]["code"])
        return '{"content":[{"type":"text","text":"%s"}]}' % said
    return None


for line in iter(sys.stdin.readline, ""):
    message = json.loads(line)
    if "id" not in message or "method" not in message:
        continue
    identity, method = json.dumps(message["id"]), message["method"]
    if method == "initialize":
        version = json.dumps(message["params"]["protocolVersion"])
        result = '{"protocolVersion":%s,"capabilities":%s,"serverInfo":{"name":"offers","version":"1"}}'
        result %= (version, CAPABILITIES)
    elif method == "ping":
        result = "{}"
    else:
        result = answer(method, message.get("params", {}))
    if result is None:
        say('{"jsonrpc":"2.0","id":%s,"error":{"code":-32602,"message":"no such thing","data":{"n":1.0}}}' % identity)
    else:
        say('{"jsonrpc":"2.0","id":%s,"result":%s}' % (identity, result))
