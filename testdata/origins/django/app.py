"""A Django application behind a GRIP proxy, with django-eventstream and django-grip.

  pip install -r requirements.txt
  export GRIP_URL=http://localhost:5561
  python app.py migrate
  python app.py runserver localhost:8000
  ROUTES='* localhost:8000,over_http' spillway gateway

/events/ is a stream of django-eventstream: its events are stored, so that a
client that comes back with Last-Event-ID misses none. A POST to /send/ adds
one. /stream/, /poll/ and /chat/ are held by django-grip: a stream, a long poll
and a WebSocket, which all get what is posted to /say/.
"""

import os
import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpResponse
from django.urls import include, path

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("DATABASE", "app.sqlite3")}},
    DEBUG=True,
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    EVENTSTREAM_STORAGE_CLASS="django_eventstream.storage.DjangoModelStorage",
    GRIP_URL=os.environ["GRIP_URL"],
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.staticfiles",
        "django_eventstream",
    ],
    MIDDLEWARE=["django_grip.GripMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="only for this example, and long enough to sign with",
    STATIC_URL="static/",
)

import django

django.setup()

# These read the settings.
import django_eventstream
from django_eventstream.storage import DjangoModelStorage
from django_grip import publish, set_hold_longpoll, set_hold_stream, websocket_only
from gripcontrol import HttpResponseFormat, HttpStreamFormat, WebSocketMessageFormat


def page(request):
    return HttpResponse(
        """<!doctype html><meta charset="utf-8"><title>django</title>
<script src="/static/django_eventstream/reconnecting-eventsource.js"></script>
<script>
var got = [], opened = 0, errors = 0, ended = false;
var source = new ReconnectingEventSource("/events/");
source.addEventListener("stream-open", function() { opened++; });
source.addEventListener("message", function(e) { got.push(JSON.parse(e.data).text); });
source.addEventListener("stream-reset", function() { errors++; });
</script>"""
    )


def send(request):
    django_eventstream.send_event("test", "message", {"text": request.POST["text"]})
    return HttpResponse("sent\n")


def store(request):
    """As send, but what a crash leaves: the event is stored, and not published."""
    DjangoModelStorage().append_event("test", "message", '{"text": "%s"}' % request.POST["text"])
    return HttpResponse("stored\n")


def stream(request):
    set_hold_stream(request, "chat", keep_alive_data="keep-alive\n", keep_alive_timeout=1)
    return HttpResponse("[open]\n", content_type="text/plain")


def poll(request):
    set_hold_longpoll(request, "chat", timeout=60)
    return HttpResponse("nothing said\n", content_type="text/plain")


@websocket_only
def chat(request):
    ws = request.wscontext
    if ws.is_opening():
        ws.accept()
        ws.subscribe("chat")
        ws.meta["name"] = request.GET.get("name", "nobody")
    while ws.can_recv():
        try:
            message = ws.recv()
        except OSError:  # the client is gone, without a word
            break
        if message is None:
            ws.close(ws.close_code)
            break
        publish("chat", WebSocketMessageFormat(ws.meta["name"] + ": " + message))


def say(request):
    text = request.POST["text"]
    publish(
        "chat",
        [HttpResponseFormat(body=text + "\n"), HttpStreamFormat(text + "\n"), WebSocketMessageFormat(text)],
        blocking=True,
    )
    return HttpResponse("said\n")


urlpatterns = [
    path("", page),
    path("events/", include(django_eventstream.urls), {"channels": ["test"]}),
    path("send/", send),
    path("store/", store),
    path("stream/", stream),
    path("poll/", poll),
    path("chat/", chat),
    path("say/", say),
]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
