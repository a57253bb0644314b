"""A function of AWS Lambda's kind that serves WebSockets, with faas-grip.

  pip install -r requirements.txt
  python app.py 8000
  ROUTES='* localhost:8000,over_http' spillway gateway
  spillway publish chat hello

handler is the function: it answers what clients say, and they get what others
publish to the channel "chat". What calls it here is a small HTTP server, in
place of the API gateway that would do so in a cloud.
"""

import sys
from base64 import b64decode, b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from faas_grip import lambda_get_websocket


def handler(event, context):
    try:
        ws = lambda_get_websocket(event)
    except ValueError:
        return {"statusCode": 400, "headers": {"Content-Type": "text/plain"}, "body": "not a WebSocket\n"}
    if ws.is_opening():
        ws.accept()
        ws.subscribe("chat")
    while ws.can_recv():
        try:
            message = ws.recv()
        except OSError:  # the client is gone, without a word
            break
        if message is None:  # the client closes
            ws.close()
            break
        ws.send("you said " + message)
    return ws.to_response()


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def serve(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        event = {
            "httpMethod": self.command,
            "path": self.path,
            "headers": dict(self.headers),
            "isBase64Encoded": True,
            "body": b64encode(body).decode(),
        }
        response = handler(event, None)
        body = response["body"].encode()
        if response.get("isBase64Encoded"):
            body = b64decode(body)
        self.send_response(response["statusCode"])
        for name, value in response["headers"].items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = serve


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Server).serve_forever()
