// eventsource.js URL prints the events of a stream as lines of JSON. The library
// comes back by itself, with the last id that it has kept.
import {EventSource} from "eventsource";

const source = new EventSource(process.argv[2]);
for (const name of ["message", "delete", "live", "gap"]) {
  source.addEventListener(name, (e) => {
    console.log(JSON.stringify({event: name, id: e.lastEventId, data: e.data}));
  });
}
