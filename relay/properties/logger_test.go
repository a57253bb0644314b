package properties

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestLoggerSaysTheSameOnceInAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := &logger{log: slog.New(slog.NewTextHandler(&out, nil)), most: kgo.LogLevelInfo}
		for range 5 {
			l.Log(kgo.LogLevelWarn, "unable to open connection to broker", "addr", "x:1")
		}
		l.Log(kgo.LogLevelError, "something else")
		if got := strings.Count(out.String(), "\n"); got != 2 {
			t.Errorf("got %d lines, want one for each message:\n%s", got, &out)
		}
		out.Reset()
		time.Sleep(repeatInterval) // of the bubble's clock
		l.Log(kgo.LogLevelWarn, "unable to open connection to broker", "addr", "x:1")
		if !strings.Contains(out.String(), "addr=x:1 swallowed=4") {
			t.Errorf("got %s, want the number of lines left out", &out)
		}
	})
}
