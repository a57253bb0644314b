"""client.py LIBRARY URL prints the events of a stream as lines of JSON, and
comes back with the last id that the library tells."""

import contextlib
import importlib.util
import json
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "target"))

import httpx  # noqa: E402
import httpx_sse  # noqa: E402
import requests  # noqa: E402
import sseclient as sseclient_py  # noqa: E402, the package hides the module of that name

# Of PyPI's sseclient, which is not sseclient-py.
spec = importlib.util.spec_from_file_location("sseclient_module", os.path.join(HERE, "target", "sseclient.py"))
sseclient = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sseclient)


def with_httpx_sse(url, headers):
    with httpx.Client(timeout=None) as client, httpx_sse.connect_sse(client, "GET", url, headers=headers) as source:
        yield from source.iter_sse()


def with_sseclient_py(url, headers):
    with requests.get(url, headers={"Accept": "text/event-stream", **headers}, stream=True) as response:
        yield from sseclient_py.SSEClient(response).events()


def with_sseclient(url, headers):
    # It comes back by itself only to a server that is there at once.
    with contextlib.redirect_stdout(sys.stderr):  # where it says why
        yield from sseclient.SSEClient(url, last_id=headers.get("Last-Event-ID"))


events = {"httpx-sse": with_httpx_sse, "sseclient-py": with_sseclient_py, "sseclient": with_sseclient}[sys.argv[1]]
last_id = None
while True:
    try:
        for e in events(sys.argv[2], {"Last-Event-ID": last_id} if last_id else {}):
            last_id = e.id or last_id
            print(json.dumps({"event": e.event, "id": e.id, "data": e.data}), file=sys.__stdout__, flush=True)
    except (httpx.TransportError, requests.RequestException) as err:
        print(err, file=sys.stderr)  # the server is away for a moment
    time.sleep(0.1)
