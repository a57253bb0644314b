package properties

import (
	"context"
	"log/slog"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A logger hands what the client library says to slog, up to the level that
// debug and log_level allow and log itself lets through.
type logger struct {
	log  *slog.Logger
	most kgo.LogLevel
}

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
	l.log.Log(context.Background(), slogLevel(level), msg, keyvals...)
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
