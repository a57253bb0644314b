"""A Django application whose streams of Kafka topics a GRIP proxy holds.

  pip install -r requirements.txt
  python app.py runserver localhost:8000
  ROUTES='* localhost:8000' spillway gateway
  KAFKA_CONSUMER_CONFIG='{"bootstrap.servers": "localhost:9092", "group.id": "demo"}' \\
    GRIP_URL=http://localhost:5561 python relay.py greetings
  curl http://localhost:7999/events/greetings/

The way of old, in two parts: this one subscribes clients to events-TOPIC, and
relay.py publishes a topic's records to it. spillway relay can take the place of
relay.py: with RELAY_CHANNELS=topic it publishes to TOPIC, so CHANNEL_PREFIX is
to be empty here. spillway serve takes the place of all three at the same
/events/TOPIC/, and lets clients resume.
"""

import os
import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpResponse
from django.urls import path

settings.configure(ALLOWED_HOSTS=["*"], DEBUG=True, ROOT_URLCONF=__name__, SECRET_KEY="only for this example")

CHANNEL_PREFIX = os.environ.get("CHANNEL_PREFIX", "events-")


def events(request, topic):
    response = HttpResponse(content_type="text/event-stream")
    response["Cache-Control"] = "no-cache"
    response["Grip-Hold"] = "stream"
    response["Grip-Channel"] = CHANNEL_PREFIX + topic
    response["Grip-Keep-Alive"] = r"event: keep-alive\ndata:\n\n; format=cstring; timeout=20"
    return response


urlpatterns = [path("events/<topic>/", events)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
