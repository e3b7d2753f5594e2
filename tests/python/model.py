"""A model for Claude Code's CLI: at its word the client starts a sub-agent, and that one calls a tool of `life`.

Speaks as much of the Messages API as the CLI needs; its port is its first line of output.
"""

import http.server
import itertools
import json

CALL = "mcp__lazaret__call_tool"
TASK = "say what the tool counts"
numbers = itertools.count(1)


def block_for(request):
    """What the model wants next: a sub-agent, in it a call, and then nothing more."""
    tools = {tool["name"] for tool in request.get("tools", [])}
    said = json.dumps(request["messages"])
    in_sub_agent = TASK in json.dumps(request["messages"][0])
    if "tool_result" in said:
        return {"type": "text", "text": "done"}
    number = next(numbers)
    if in_sub_agent and CALL in tools:
        wish = {"server": "life", "tool": "count", "arguments": {}}
        return {"type": "tool_use", "id": f"toolu_sub{number}", "name": CALL, "input": wish}
    if not in_sub_agent and "Agent" in tools:
        wish = {"description": "count", "prompt": TASK, "subagent_type": "general-purpose"}
        return {"type": "tool_use", "id": f"toolu_top{number}", "name": "Agent", "input": wish}
    return {"type": "text", "text": "done"}


def stream(request, block):
    stop = "tool_use" if block["type"] == "tool_use" else "end_turn"
    message = {"id": f"msg_{next(numbers)}", "type": "message", "role": "assistant", "model": request["model"]}
    message |= {"content": [], "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}
    if block["type"] == "text":
        empty, delta = {"type": "text", "text": ""}, {"type": "text_delta", "text": block["text"]}
    else:
        empty, delta = block | {"input": {}}, {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
    ended = {"delta": {"stop_reason": stop, "stop_sequence": None}, "usage": {"output_tokens": 1}}
    events = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": empty},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta"} | ended,
        {"type": "message_stop"},
    ]
    return "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)


class Model(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, kind, text):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_HEAD(self):
        self.answer("text/plain", "")

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "count_tokens" in self.path:
            return self.answer("application/json", '{"input_tokens": 1}')
        self.answer("text/event-stream", stream(request, block_for(request)))


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Model)
print(server.server_port, flush=True)
server.serve_forever()
