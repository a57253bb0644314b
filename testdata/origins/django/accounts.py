"""A Django application that knows its users, by sessions and by tokens of its own.

  pip install -r requirements.txt
  export GRIP_URL=http://localhost:5561 TOPICS=orders
  python accounts.py runserver localhost:8000
  AUTH_URL=http://localhost:8000/may-read/ ROUTES='* localhost:8000' spillway serve

A POST to /login/ with user=ann begins a session, and answers with a token that
is as good. /may-read/ is what AUTH_URL asks: ann and bob may read TOPICS, each
the records of a tenant. /asked/ tells what it was shown last.

/events/TOPIC/ is for a route below EVENTS_PATH: it is held by django-grip, for
the same users:

  ROUTES='*,path_beg=/events/ localhost:8000,over_http; * localhost:8000' spillway serve
"""

import os
import sys
import time

from django.conf import settings
from django.core import signing
from django.core.management import execute_from_command_line
from django.http import HttpResponse, JsonResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["*"],
    DEBUG=True,
    GRIP_URL=os.environ["GRIP_URL"],
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware", "django_grip.GripMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="only for this example, and long enough to sign with",
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
)

import django

django.setup()

from django_grip import set_hold_stream  # which reads the settings

TENANTS = {"ann": "acme", "bob": "bolt"}
asked = {}


def login(request):
    user = {"name": request.POST["user"], "until": int(time.time()) + int(request.POST.get("seconds", 3600))}
    request.session["user"] = user
    return HttpResponse(signing.dumps(user))


def user_of(request):
    """Who it is, by the token or the session; None where nobody says."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme != "Bearer":
        return request.session.get("user")
    try:
        return signing.loads(token)
    except signing.BadSignature:
        return None


def refusal(request):
    """401 and 403, or None for who may come in."""
    user = user_of(request)
    if user is None or user["until"] <= time.time():
        return HttpResponse("log in first\n", status=401, headers={"WWW-Authenticate": 'Bearer realm="accounts"'})
    if user["name"] not in TENANTS:
        return HttpResponse("this is not for you\n", status=403)


def may_read(request):
    asked.clear()
    asked.update({name: value for name, value in request.headers.items() if name.startswith("X-Forwarded-")})
    refused = refusal(request)
    if refused:
        return refused
    user = user_of(request)
    return HttpResponse(
        headers={
            "X-Spillway-Topics": os.environ["TOPICS"],
            "X-Spillway-Claims": '{"tenant": "%s"}' % TENANTS[user["name"]],
            "X-Spillway-Expires": str(user["until"]),
            "X-Spillway-Subject": user["name"],
        }
    )


def events(request, topic):
    refused = refusal(request)
    if refused:
        return refused
    if topic not in os.environ["TOPICS"].split():
        return HttpResponse("no such topic\n", status=404)
    if request.wscontext:
        ws = request.wscontext
        if ws.is_opening():
            ws.accept()
            ws.subscribe(topic)
        while ws.can_recv():
            if ws.recv() is None:
                ws.close(ws.close_code)
                break
        return HttpResponse()
    set_hold_stream(request, topic)
    return HttpResponse(":ok\n\n", content_type="text/event-stream; charset=utf-8")


urlpatterns = [
    path("login/", login),
    path("may-read/", may_read),
    path("asked/", lambda request: JsonResponse(asked)),
    path("events/<topic>/", events),
]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
