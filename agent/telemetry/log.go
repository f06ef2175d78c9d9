package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// Levels are the names of the log levels, most talkative first.
var Levels = []string{"trace", "debug", "info", "warn", "error"}

// Formats are the names of the log formats.
var Formats = []string{"text", "json"}

// LevelTrace is below slog's own levels; libraries use it.
const LevelTrace = slog.LevelDebug - 4

// ParseLevel reads one of Levels; the empty name is info.
func ParseLevel(name string) (slog.Level, error) {
	switch strings.ToLower(name) {
	case "trace":
		return LevelTrace, nil
	case "debug":
		return slog.LevelDebug, nil
	case "info", "":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("%q is not a log level: want one of %s", name, strings.Join(Levels, ", "))
}

// Log is a logger whose level can change.
type Log struct {
	*slog.Logger
	level *slog.LevelVar
}

// NewLog makes a logger that writes to w, in one of Formats ("" is text).
func NewLog(w io.Writer, level, format string) (*Log, error) {
	l, err := ParseLevel(level)
	if err != nil {
		return nil, err
	}
	v := new(slog.LevelVar)
	v.Set(l)
	opts := &slog.HandlerOptions{Level: v, ReplaceAttr: nameTrace}
	switch format {
	case "json":
		return &Log{slog.New(slog.NewJSONHandler(w, opts)), v}, nil
	case "text", "":
		return &Log{slog.New(slog.NewTextHandler(w, opts)), v}, nil
	}
	return nil, fmt.Errorf("%q is not a log format: want one of %s", format, strings.Join(Formats, ", "))
}

// nameTrace writes TRACE where slog would write DEBUG-4.
func nameTrace(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.LevelKey {
		if l, ok := a.Value.Any().(slog.Level); ok && l == LevelTrace {
			a.Value = slog.StringValue("TRACE")
		}
	}
	return a
}

// SetLevel changes the level of this logger and of all that derive from it.
func (l *Log) SetLevel(name string) error {
	v, err := ParseLevel(name)
	if err == nil {
		l.level.Set(v)
	}
	return err
}

// Level returns the present level.
func (l *Log) Level() slog.Level { return l.level.Level() }
