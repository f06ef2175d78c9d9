package telemetry

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"testing"

	metrics "github.com/hashicorp/go-metrics/compat"
	"github.com/shoenig/test/must"
)

func TestLogWritesTextOrJSON(t *testing.T) {
	var b bytes.Buffer
	l, err := NewLog(&b, "", "")
	must.NoError(t, err)
	l.Info("started", "node", "n1")
	must.StrContains(t, b.String(), `level=INFO msg=started node=n1`)

	b.Reset()
	l, err = NewLog(&b, "trace", "json")
	must.NoError(t, err)
	l.Log(t.Context(), LevelTrace, "deep")
	var line map[string]any
	must.NoError(t, json.Unmarshal(b.Bytes(), &line))
	must.Eq(t, "TRACE", line["level"])
	must.Eq(t, "deep", line["msg"])
}

func TestLogLevelChangesWhileRunning(t *testing.T) {
	var b bytes.Buffer
	l, err := NewLog(&b, "info", "text")
	must.NoError(t, err)
	child := l.With("component", "raft")
	child.Debug("hidden")
	must.Eq(t, "", b.String())
	must.NoError(t, l.SetLevel("debug"))
	must.Eq(t, slog.LevelDebug, l.Level())
	child.Debug("seen")
	must.StrContains(t, b.String(), "msg=seen component=raft")
	must.ErrorContains(t, l.SetLevel("loud"), `"loud" is not a log level`)
	must.Eq(t, slog.LevelDebug, l.Level())
	for _, name := range Levels {
		must.NoError(t, l.SetLevel(name))
	}
}

func TestLogRefusesUnknownNames(t *testing.T) {
	_, err := NewLog(nil, "loud", "")
	must.ErrorContains(t, err, "trace, debug, info, warn, error")
	_, err = NewLog(nil, "info", "xml")
	must.ErrorContains(t, err, "text, json")
}

func TestMetricsAreShownInBothFormats(t *testing.T) {
	m, err := NewMetrics()
	must.NoError(t, err)
	metrics.IncrCounter([]string{"http", "request"}, 1)
	metrics.SetGauge([]string{"client", "vms"}, 3)

	w := httptest.NewRecorder()
	m.ServeHTTP(w, httptest.NewRequest("GET", "/v1/metrics", nil))
	must.Eq(t, 200, w.Code)
	must.StrContains(t, w.Body.String(), "novacron.http.request")
	must.StrContains(t, w.Body.String(), "novacron.client.vms")

	w = httptest.NewRecorder()
	m.ServeHTTP(w, httptest.NewRequest("GET", "/v1/metrics?format=prometheus", nil))
	must.StrContains(t, w.Body.String(), "novacron_http_request 1")
	must.StrContains(t, w.Body.String(), "go_goroutines")

	m.SetPrometheus(false)
	w = httptest.NewRecorder()
	m.ServeHTTP(w, httptest.NewRequest("GET", "/v1/metrics?format=prometheus", nil))
	must.Eq(t, 404, w.Code)
}
