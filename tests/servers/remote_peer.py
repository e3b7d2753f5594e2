"""A remote MCP server of ours: it wants a header, and changes what it offers when a tool of it is told to."""

import json
import os
import sys
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = os.environ["PEER_KEY"]
tool = {"name": "add", "description": "Adds two numbers", "inputSchema": {"type": "object"}}
sessions = set()
listeners = []
changed = threading.Condition()


class Peer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def say(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def admitted(self):
        if self.headers.get("X-Key") != KEY:
            self.say(401)
        elif self.headers.get("Mcp-Session-Id") not in sessions:
            self.say(404)
        else:
            return True
        return False

    def do_GET(self):
        if not self.admitted():
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        with changed:
            before = len(listeners)
            changed.wait_for(lambda: len(listeners) > before, timeout=60)
        note = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
        self.wfile.write(f"data: {json.dumps(note)}\n\n".encode())

    def do_DELETE(self):
        if self.admitted():
            sessions.discard(self.headers["Mcp-Session-Id"])
            print("session ended", flush=True)
            self.say(200)

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        method = request["method"]
        if method == "initialize":
            if self.headers.get("X-Key") != KEY:
                return self.say(401)
            session = str(uuid.uuid4())
            sessions.add(session)
            result = {"protocolVersion": "2025-06-18", "serverInfo": {"name": "peer", "version": "1"}}
            result["capabilities"] = {"tools": {"listChanged": True}}
            return self.answer(request, result, Mcp_Session_Id=session)
        if not self.admitted():
            return None
        if "id" not in request:
            return self.say(202)
        if method == "tools/list":
            turn = {"name": "turn", "inputSchema": {"type": "object"}}
            return self.answer(request, {"tools": [tool, turn]})
        arguments = request["params"].get("arguments", {})
        if request["params"]["name"] == "turn":
            self.turn(arguments)
        return self.answer(request, {"content": [{"type": "text", "text": "3"}], "n": 1.50})

    def turn(self, arguments):
        if "forget" in arguments:
            sessions.clear()
        if "field" in arguments:
            tool[arguments["field"]] = arguments["value"]
        if "aloud" in arguments:
            with changed:
                listeners.append(None)
                changed.notify_all()

    def answer(self, request, result, **headers):
        body = json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}).encode()
        self.say(200, body, Content_Type="application/json", **headers)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Peer)
print(server.server_port, flush=True)
server.serve_forever()
