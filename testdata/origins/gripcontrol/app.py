"""A WSGI application behind a GRIP proxy, with nothing but gripcontrol.

  pip install -r requirements.txt
  GRIP_URL='http://localhost:5561/?iss=app&key=secret' python app.py 8000
  ROUTES='* localhost:8000,over_http' CONTROL_KEY=secret SIG_KEY=secret spillway gateway

/stream/, /poll/ and /chat/ are a stream, a long poll and a WebSocket, which all
get what is posted to /say/. The first two are held by an instruction in the
body, the document application/grip-instruct.
"""

import os
import sys
from urllib.parse import parse_qs
from wsgiref.simple_server import make_server

from gripcontrol import (
    Channel,
    GripPubControl,
    HttpResponseFormat,
    HttpStreamFormat,
    Response,
    WebSocketEvent,
    WebSocketMessageFormat,
    create_hold_response,
    create_hold_stream,
    decode_websocket_events,
    encode_websocket_events,
    parse_grip_uri,
    validate_sig,
    websocket_control_message,
)
from pubcontrol import Item

grip = parse_grip_uri(os.environ["GRIP_URL"])
pub = GripPubControl(grip)
PLAIN = {"Content-Type": "text/plain"}


def chat(body):
    """Takes the events of a WebSocket, and returns those for its client."""
    out = []
    for event in decode_websocket_events(body):
        if event.type == "OPEN":
            out.append(WebSocketEvent("OPEN"))
            out.append(WebSocketEvent("TEXT", "c:" + websocket_control_message("subscribe", {"channel": "chat"})))
        elif event.type == "TEXT":
            text = event.content.decode()
            pub.publish("chat", Item(WebSocketMessageFormat(text)), blocking=True)
        elif event.type == "CLOSE":
            out.append(event)  # with the code that the client gave
    return encode_websocket_events(out)


def app(environ, start_response):
    def answer(status, content_type, body, *headers):
        if isinstance(body, str):
            body = body.encode()
        start_response(status, [("Content-Type", content_type), ("Content-Length", str(len(body))), *headers])
        return [body]

    if not validate_sig(environ.get("HTTP_GRIP_SIG", ""), grip["key"]):
        return answer("501 Not Implemented", "text/plain", "this needs a GRIP proxy\n")
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    match environ["PATH_INFO"]:
        case "/stream/":
            hold = create_hold_stream(Channel("chat"), Response(headers=PLAIN, body="[open]\n"))
            return answer("200 OK", "application/grip-instruct", hold)
        case "/poll/":
            hold = create_hold_response("chat", Response(headers=PLAIN, body="nothing said\n"), timeout=60)
            return answer("200 OK", "application/grip-instruct", hold)
        case "/chat/" if environ.get("CONTENT_TYPE") == "application/websocket-events":
            return answer(
                "200 OK", "application/websocket-events", chat(body), ("Sec-WebSocket-Extensions", "grip")
            )
        case "/say/":
            text = parse_qs(body.decode())["text"][0]
            formats = [HttpResponseFormat(body=text + "\n"), HttpStreamFormat(text + "\n"), WebSocketMessageFormat(text)]
            pub.publish("chat", Item(formats), blocking=True)
            return answer("200 OK", "text/plain", "said\n")
    return answer("404 Not Found", "text/plain", "no such page\n")


if __name__ == "__main__":
    make_server("127.0.0.1", int(sys.argv[1]), app).serve_forever()
