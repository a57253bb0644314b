// parser.js URL prints the events of a stream as lines of JSON, and comes back
// with the id of the last one. The library only parses.
import {createParser} from "eventsource-parser";

let lastID = "";
const parser = createParser({
  onEvent(e) {
    lastID = e.id ?? lastID;
    console.log(JSON.stringify({event: e.event, id: e.id, data: e.data}));
  },
  onError(err) {
    console.error(err);
    process.exit(1);
  },
});
for (;;) {
  try {
    const headers = {Accept: "text/event-stream", ...(lastID && {"Last-Event-ID": lastID})};
    const response = await fetch(process.argv[2], {headers});
    parser.reset();
    for await (const text of response.body.pipeThrough(new TextDecoderStream())) parser.feed(text);
  } catch (err) {
    console.error(err.message); // the server is away for a moment
  }
  await new Promise((resolve) => setTimeout(resolve, 100));
}
