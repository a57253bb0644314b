package properties

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A logger hands what the client library says to slog, up to the level that
// debug and log_level allow and log itself lets through. While brokers are away
// the library says the same many times a second: a warning or error is logged
// at most once per repeatInterval, with the number of those in between.
type logger struct {
	log  *slog.Logger
	most kgo.LogLevel

	mu     sync.Mutex
	recent map[string]*repeated // by message: constants of the library, so there are few
}

type repeated struct {
	logged    time.Time
	swallowed int
}

const repeatInterval = 10 * time.Second

// Level is asked by the library before it puts a message together.
func (l *logger) Level() kgo.LogLevel {
	for level := l.most; level > kgo.LogLevelNone; level-- {
		if l.log.Enabled(context.Background(), slogLevel(level)) {
			return level
		}
	}
	return kgo.LogLevelNone
}

func (l *logger) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	if level == kgo.LogLevelWarn || level == kgo.LogLevelError {
		swallowed, ok := l.due(msg, time.Now())
		if !ok {
			return
		}
		if swallowed > 0 {
			keyvals = append(keyvals[:len(keyvals):len(keyvals)], "swallowed", swallowed)
		}
	}
	l.log.Log(context.Background(), slogLevel(level), msg, keyvals...)
}

// due reports whether msg is to be logged now, and how many were not since the
// last time.
func (l *logger) due(msg string, now time.Time) (swallowed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.recent[msg]
	if r == nil {
		if l.recent == nil {
			l.recent = make(map[string]*repeated)
		}
		r = &repeated{}
		l.recent[msg] = r
	}
	if !r.logged.IsZero() && now.Sub(r.logged) < repeatInterval {
		r.swallowed++
		return 0, false
	}
	swallowed = r.swallowed
	r.logged, r.swallowed = now, 0
	return swallowed, true
}

// slogLevel lowers what the library calls info: it tells of every metadata
// update and each step of a rebalance, which is ours to know when debugging.
func slogLevel(level kgo.LogLevel) slog.Level {
	switch level {
	case kgo.LogLevelError:
		return slog.LevelError
	case kgo.LogLevelWarn:
		return slog.LevelWarn
	default:
		return slog.LevelDebug
	}
}
