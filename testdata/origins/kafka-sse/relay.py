"""Publishes the records of Kafka topics as Server-Sent Events: relay.py TOPIC..."""

import json
import os
import signal
import sys

from confluent_kafka import Consumer
from gripcontrol import GripPubControl, parse_grip_uri

pub = GripPubControl(parse_grip_uri(os.environ["GRIP_URL"]))
consumer = Consumer(json.loads(os.environ["KAFKA_CONSUMER_CONFIG"]))
consumer.subscribe(sys.argv[1:])
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
try:
    while True:
        record = consumer.poll(1)
        if record is None:
            continue
        if record.error():
            sys.exit("relay.py: %s" % record.error())
        lines = record.value().decode().splitlines() or [""]
        event = "event: message\n" + "".join("data: %s\n" % line for line in lines) + "\n"
        pub.publish_http_stream("events-" + record.topic(), event, blocking=True)
finally:
    consumer.close()  # commits, and leaves the group at once
