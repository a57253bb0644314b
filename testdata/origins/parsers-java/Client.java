import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import okhttp3.OkHttpClient;
import okhttp3.Request;
import okhttp3.Response;
import okhttp3.sse.EventSource;
import okhttp3.sse.EventSourceListener;
import okhttp3.sse.EventSources;

/** Client URL prints the events of a stream as lines of JSON, and comes back with the last id. */
class Client extends EventSourceListener {
  static String lastID = "";

  final CountDownLatch ended = new CountDownLatch(1);

  public static void main(String[] args) throws Exception {
    OkHttpClient http = new OkHttpClient.Builder().readTimeout(0, TimeUnit.SECONDS).build();
    while (true) {
      Request.Builder request = new Request.Builder().url(args[0]);
      if (!lastID.isEmpty()) {
        request.header("Last-Event-ID", lastID);
      }
      Client client = new Client();
      EventSources.createFactory(http).newEventSource(request.build(), client);
      client.ended.await();
      Thread.sleep(100);
    }
  }

  @Override
  public void onEvent(EventSource source, String id, String type, String data) {
    if (id != null) {
      lastID = id;
    }
    System.out.println("{\"event\":" + quote(type) + ",\"id\":" + quote(id) + ",\"data\":" + quote(data) + "}");
  }

  @Override
  public void onClosed(EventSource source) {
    ended.countDown();
  }

  @Override
  public void onFailure(EventSource source, Throwable err, Response response) {
    System.err.println(err); // the server is away for a moment
    ended.countDown();
  }

  /** In JSON; only ASCII, whatever the machine's encoding is. */
  static String quote(String text) {
    if (text == null) {
      return "null";
    }
    StringBuilder quoted = new StringBuilder("\"");
    for (char c : text.toCharArray()) {
      quoted.append(c < ' ' || c == '"' || c == '\\' || c > '~' ? String.format("\\u%04x", (int) c) : c);
    }
    return quoted.append('"').toString();
  }
}
