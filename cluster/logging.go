package cluster

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// hlog gives hashicorp libraries a logger that writes to slog.
type hlog struct {
	l    *slog.Logger
	name string
	args []any
}

var _ hclog.Logger = (*hlog)(nil)

func newHLog(l *slog.Logger, name string) *hlog {
	return &hlog{l: l.With("component", name), name: name}
}

func slogLevel(l hclog.Level) slog.Level {
	switch l {
	case hclog.Trace:
		return slog.LevelDebug - 4
	case hclog.Debug:
		return slog.LevelDebug
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Error:
		return slog.LevelError
	default:
		return slog.LevelInfo
	}
}

// Log writes one line.
func (h *hlog) Log(level hclog.Level, msg string, args ...any) {
	if !h.on(level) {
		return
	}
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			args[i] = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
	}
	h.l.Log(context.Background(), slogLevel(level), msg, args...)
}

func (h *hlog) on(l hclog.Level) bool { return h.l.Enabled(context.Background(), slogLevel(l)) }

func (h *hlog) Trace(msg string, args ...any) { h.Log(hclog.Trace, msg, args...) }
func (h *hlog) Debug(msg string, args ...any) { h.Log(hclog.Debug, msg, args...) }
func (h *hlog) Info(msg string, args ...any)  { h.Log(hclog.Info, msg, args...) }
func (h *hlog) Warn(msg string, args ...any)  { h.Log(hclog.Warn, msg, args...) }
func (h *hlog) Error(msg string, args ...any) { h.Log(hclog.Error, msg, args...) }

func (h *hlog) IsTrace() bool { return h.on(hclog.Trace) }
func (h *hlog) IsDebug() bool { return h.on(hclog.Debug) }
func (h *hlog) IsInfo() bool  { return h.on(hclog.Info) }
func (h *hlog) IsWarn() bool  { return h.on(hclog.Warn) }
func (h *hlog) IsError() bool { return h.on(hclog.Error) }

// ImpliedArgs returns what With added.
func (h *hlog) ImpliedArgs() []any { return h.args }

// With returns a logger that adds args to each line.
func (h *hlog) With(args ...any) hclog.Logger {
	return &hlog{l: h.l.With(args...), name: h.name, args: append(h.args[:len(h.args):len(h.args)], args...)}
}

// Name returns the component.
func (h *hlog) Name() string { return h.name }

// Named returns a logger of a part of the component.
func (h *hlog) Named(name string) hclog.Logger { return h.ResetNamed(h.name + "." + name) }

// ResetNamed returns a logger of another component.
func (h *hlog) ResetNamed(name string) hclog.Logger {
	return &hlog{l: h.l.With("component", name), name: name, args: h.args}
}

// SetLevel does nothing: the level is slog's.
func (h *hlog) SetLevel(hclog.Level) {}

// GetLevel returns the lowest level that slog lets through.
func (h *hlog) GetLevel() hclog.Level {
	for _, l := range []hclog.Level{hclog.Trace, hclog.Debug, hclog.Info, hclog.Warn} {
		if h.on(l) {
			return l
		}
	}
	return hclog.Error
}

// StandardLogger returns a *log.Logger that reads levels such as "[WARN]".
func (h *hlog) StandardLogger(o *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(h.StandardWriter(o), "", 0)
}

// StandardWriter returns a writer of lines.
func (h *hlog) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return lineWriter{h} }

// lineWriter turns lines such as "[WARN] memberlist: text" into log records.
type lineWriter struct{ h *hlog }

// Write takes one line; package log calls it once for each.
func (w lineWriter) Write(p []byte) (int, error) {
	line, level := bytes.TrimSpace(p), hclog.Info
	for _, l := range []hclog.Level{hclog.Trace, hclog.Debug, hclog.Info, hclog.Warn, hclog.Error} {
		tag := []byte("[" + map[hclog.Level]string{hclog.Trace: "TRACE", hclog.Debug: "DEBUG", hclog.Info: "INFO", hclog.Warn: "WARN", hclog.Error: "ERR"}[l])
		if bytes.HasPrefix(line, tag) {
			if end := bytes.IndexByte(line, ']'); end > 0 {
				line, level = bytes.TrimSpace(line[end+1:]), l
			}
			break
		}
	}
	w.h.Log(level, string(line))
	return len(p), nil
}
