// An Express application behind a GRIP proxy, with @fanoutio/serve-grip,
// @fanoutio/grip and @fanoutio/eventstream.
//
//   npm ci
//   GRIP_URL='http://localhost:5561/?iss=app&key=secret' PORT=3000 node server.js
//   ROUTES='* localhost:3000,over_http' CONTROL_KEY=secret SIG_KEY=secret spillway gateway
//
// /events is a stream of @fanoutio/eventstream. /stream, /poll and /chat are
// held by serve-grip: a stream, a long poll and a WebSocket, which all get what
// is posted to /say.

import express from 'express';
import { HttpResponseFormat, HttpStreamFormat, WebSocketMessageFormat } from '@fanoutio/grip';
import { ServeGrip } from '@fanoutio/serve-grip';
import { EventStream } from '@fanoutio/eventstream';

const grip = process.env.GRIP_URL;
const serveGrip = new ServeGrip({ grip, gripProxyRequired: true });
const eventStream = new EventStream({ grip });

const app = express();
app.get('/events', eventStream('test'));
app.post('/send', express.urlencoded({ extended: false }), async (req, res) => {
  await eventStream.publishEvent('test', { event: 'message', data: { text: req.body.text } });
  res.end('sent\n');
});

app.use(serveGrip);

app.get('/', (req, res) => {
  res.type('html').end(`<!doctype html><meta charset="utf-8"><title>express</title>
<script>
var got = [], opened = 0, errors = 0, ended = false;
var socket = new WebSocket("ws://" + location.host + "/chat");
socket.onopen = function() { opened++; };
socket.onerror = function() { errors++; };
socket.onclose = function() { ended = true; };
socket.onmessage = function(e) { got.push(e.data); };
</script>`);
});

app.get('/stream', (req, res) => {
  const instruct = res.grip.startInstruct();
  instruct.addChannel('chat');
  instruct.setHoldStream();
  instruct.setKeepAlive('keep-alive\n', 1);
  res.type('text').end('[open]\n');
});

app.get('/poll', (req, res) => {
  const instruct = res.grip.startInstruct();
  instruct.addChannel('chat');
  instruct.setHoldLongPoll(60);
  res.type('text').end('nothing said\n');
});

// WebSocket-over-HTTP: the messages of a client arrive as requests.
app.post('/chat', async (req, res) => {
  const { wsContext } = req.grip;
  if (wsContext == null) {
    res.status(400).end('not a WebSocket\n');
    return;
  }
  if (wsContext.isOpening()) {
    wsContext.accept();
    wsContext.subscribe('chat');
  }
  while (wsContext.canRecv()) {
    let message;
    try {
      message = wsContext.recv();
    } catch { // the client is gone, without a word
      break;
    }
    if (message == null) { // the client closes
      wsContext.close();
      break;
    }
    await serveGrip.getPublisher().publishFormats('chat', new WebSocketMessageFormat(message));
  }
  res.end();
});

app.post('/say', express.urlencoded({ extended: false }), async (req, res) => {
  const { text } = req.body;
  await serveGrip.getPublisher().publishFormats('chat', [
    new HttpResponseFormat({ body: text + '\n' }),
    new HttpStreamFormat(text + '\n'),
    new WebSocketMessageFormat(text),
  ]);
  res.end('said\n');
});

app.listen(process.env.PORT ?? 3000, '127.0.0.1');
