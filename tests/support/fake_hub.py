"""A fake of the Hugging Face hub: takes repositories and commits over HTTP, and keeps the files."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FakeHub:
    """What was uploaded. repos: by id, what it was made with. refuse: the status of all answers."""

    address: str = ""
    repos: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    refuse: int = 0


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Serve one on a free port."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            hub.tokens.add(self.headers.get("Authorization", ""))
            if hub.refuse:
                return self.answer({"error": "no"}, hub.refuse)
            if self.path == "/api/repos/create":
                made = json.loads(body)
                hub.repos[f"{made.get('organization')}/{made['name']}"] = made
                return self.answer({"url": f"{hub.address}/me/mine"})
            if "/preupload/" in self.path:
                files = [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in json.loads(body)["files"]
                ]
                return self.answer({"files": files})
            if "/commit/" in self.path:
                for line in body.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        value = entry["value"]
                        hub.files[value["path"]] = base64.b64decode(value["content"])
                return self.answer(
                    {"commitUrl": f"{hub.address}/me/mine/commit/1", "commitOid": "1"}
                )
            return self.answer({"errors": [], "warnings": []})  # what validates the card

        def do_GET(self) -> None:
            self.answer({"sha": "0", "siblings": [], "id": "me/mine"}, hub.refuse or 200)

        def answer(self, values: Any, status: int = 200) -> None:
            body = json.dumps(values).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
