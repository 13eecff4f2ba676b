"""A daemon's double: a real process on a unix socket that answers the HTTP API from a table of knobs.

Run as ``python fake_daemon.py FOLDER KNOBS``; it listens on FOLDER/api.sock, holds the lock, and writes what it was
asked into FOLDER/log, one JSON object a line. KNOBS is a JSON object, see ``Handler``.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import signal
import socketserver
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

FOLDER = Path(sys.argv[1]) if __name__ == "__main__" else Path()
KNOBS = json.loads(sys.argv[2]) if __name__ == "__main__" else {}

MODEL = {
    "name": "tiny",
    "path": "/models/tiny",
    "runtime": "genai",
    "mode": "timeout",
    "warmth": "HOT",
    "phase": "HOT",
    "reason": "answered an ask",
    "since": 1000.0,
    "wanted": "HOT",
    "next_at": 4102444800.0,
    "next_warmth": "COLD",
    "pid": 4242,
    "memory": {"pss": 1 << 27, "private_dirty": 1 << 20, "rss": 1 << 28, "cgroup": None},
}
STATUS = {
    "version": "0.1.0",
    "pid": 17,
    "unit": "nsorch.service",
    "started": 1000.0,
    "mode": "timeout",
    "default_model": "tiny",
    "launcher": "child",
    "models": [MODEL],
    "warnings": [],
}
MODES = [
    {
        "name": "timeout",
        "description": "Cold after a while",
        "policy": "timeout",
        "parameters": {"IdleSec": "5min"},
        "source": "/vendor/timeout.conf",
        "active": True,
    }
]
WHY = {
    "model": "tiny",
    "warmth": "HOT",
    "reason": "answered an ask",
    "outlook": "COLD in 5 min",
    "transitions": [{"at": 1000.0, "before": "COLD", "after": "HOT", "reason": "an ask"}],
}


def log(**what) -> None:
    with (FOLDER / "log").open("a") as file:
        file.write(json.dumps(what) + "\n")


def embeddings(body) -> dict:
    """Each text's length and one."""
    rows = [base64.b64encode(struct.pack("<2f", len(text), 1)).decode() for text in body["input"]]
    data = [{"object": "embedding", "index": number, "embedding": row} for number, row in enumerate(rows)]
    usage = {"prompt_tokens": len(data), "total_tokens": len(data), "truncated": KNOBS.get("truncated", 0)}
    return {"object": "list", "model": body.get("model") or "tiny", "data": data, "usage": usage}


class Handler(BaseHTTPRequestHandler):
    """Knobs: error (status, body), pieces, delay, die_after, error_after, hang, silent, infer, freed, events."""

    protocol_version = "HTTP/1.1"

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *args) -> None:
        pass

    def reply(self, status: int, body: object) -> None:
        payload = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def handle_any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        text = int(self.headers.get("Inference-Header-Content-Length") or length)
        body = json.loads(self.rfile.read(length)[:text]) if length else None
        log(method=self.command, path=self.path, body=body)
        if KNOBS.get("hang"):
            signal.pause()
        if "error" in KNOBS:
            self.reply(*KNOBS["error"])
            return
        plain = {
            "GET /orch/status": STATUS | KNOBS.get("status", {}),
            "GET /orch/why": [WHY],
            "GET /orch/modes": MODES,
            "GET /orch/models/tiny/why": WHY,
            "POST /orch/models/tiny/preload": MODEL,
            "POST /orch/models/tiny/unload": MODEL,
            "POST /orch/free": KNOBS.get("freed", []),
            "POST /orch/reload": {"warnings": KNOBS.get("warnings", [])},
        }
        match (self.command, self.path):
            case _ if (found := plain.get(f"{self.command} {self.path}")) is not None:
                self.reply(200, found)
            case ("GET", "/orch/events") | ("POST", "/orch/leases"):
                self.happen(KNOBS.get("events", []))
            case ("POST", "/v1/chat/completions"):
                self.stream(body)
            case ("POST", "/v2/models/tiny/infer"):
                outputs = [{"name": "y", "shape": [2, 2], "datatype": "FP32", "data": [1.5, 2.5, 3.5, 4.5]}]
                self.reply(200, {"model_name": "tiny", "outputs": KNOBS.get("outputs", outputs)})
            case ("POST", "/v1/embeddings"):
                self.reply(200, embeddings(body))
            case ("GET", "/v2/models/tiny") if KNOBS.get("declared"):
                self.reply(200, {"inputs": KNOBS["declared"]})
            case _:
                problem = "model-unknown" if "/models/" in self.path and "/v2/" not in self.path else "not-found"
                self.reply(404, {"problem": problem, "message": "There is no such thing.", "hint": "Look."})

    def do_POST(self) -> None:
        if self.headers.get("Connection") is None:
            self.close_connection = True  # http.server takes a head that was given up in the middle for a whole one
        else:
            self.handle_any()

    do_GET = do_PUT = handle_any  # noqa: N815  (http.server's names)

    def event(self, data: object) -> None:
        text = data if isinstance(data, str) else json.dumps(data)
        payload = f"data: {text}\n\n".encode()
        self.wfile.write(f"{len(payload):x}\r\n".encode() + payload + b"\r\n")
        self.wfile.flush()

    def begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def happen(self, events) -> None:
        self.begin()
        for event in [*events, "[DONE]"]:
            self.event(event)
        self.wfile.write(b"0\r\n\r\n")

    def stream(self, body) -> None:
        self.begin()
        pieces = KNOBS.get("pieces", ["Paris", " is", " it."])
        if KNOBS.get("echo"):
            pieces = [f"{len(body['messages'])}:{body['messages'][-1]['content']}"]
        chunk = {"id": "1", "object": "chat.completion.chunk", "model": body.get("model") or "tiny"}
        try:
            for number, text in enumerate(pieces):
                if KNOBS.get("die_after") == number:
                    log(died=True)
                    os._exit(1)
                if KNOBS.get("error_after") == number:
                    self.event({"error": {"message": "The worker died.", "code": "worker-died", "hint": "Ask again."}})
                    return
                time.sleep(KNOBS.get("delay", 0))
                self.event(chunk | {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})
            self.event(chunk | {"choices": [{"index": 0, "delta": {}, "finish_reason": KNOBS.get("finish", "stop")}]})
            usage = {"prompt_tokens": 5, "completion_tokens": len(pieces), "total_tokens": 5 + len(pieces)}
            timings = {"prefill_seconds": 0.1, "decode_seconds": 0.5, "load_seconds": 0.0}
            self.event(chunk | {"choices": [], "usage": usage, "timings": timings})
            self.event("[DONE]")
            self.wfile.write(b"0\r\n\r\n")
        except ConnectionError:
            log(cancelled=True)
            self.close_connection = True


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def main() -> None:
    lock = os.open(FOLDER / "daemon.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.write(lock, f"{os.getpid()}\n".encode())
    with Server(str(FOLDER / "api.sock"), Handler) as server:
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
        server.serve_forever(poll_interval=0.02)


if __name__ == "__main__":
    main()
