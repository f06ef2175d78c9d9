package telemetry

import (
	"encoding/json"
	"net/http"
	"sync/atomic"
	"time"

	metrics "github.com/hashicorp/go-metrics/compat"
	promsink "github.com/hashicorp/go-metrics/compat/prometheus"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// The windows of the metrics kept in memory, and how long Prometheus is still
// shown a series that is no longer written.
const (
	interval = 10 * time.Second
	retain   = time.Minute
	expire   = 5 * time.Minute
)

// Metrics holds the sinks behind the process's metrics.
type Metrics struct {
	inmem      *metrics.InmemSink
	registry   *prometheus.Registry
	text       http.Handler
	prometheus atomic.Bool
}

// NewMetrics makes the sinks and installs them as the process's global, where
// every room and library writes. The last one made in a process wins.
func NewMetrics() (*Metrics, error) {
	m := &Metrics{inmem: metrics.NewInmemSink(interval, retain), registry: prometheus.NewRegistry()}
	sink, err := promsink.NewPrometheusSinkFrom(promsink.PrometheusOpts{Registerer: m.registry, Expiration: expire})
	if err != nil {
		return nil, err
	}
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := m.registry.Register(c); err != nil {
			return nil, err
		}
	}
	cfg := metrics.DefaultConfig("novacron")
	cfg.EnableHostname = false
	cfg.EnableRuntimeMetrics = false // the Go collector has them, without a goroutine
	if _, err := metrics.NewGlobal(cfg, metrics.FanoutSink{m.inmem, sink}); err != nil {
		return nil, err
	}
	m.text = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
	m.prometheus.Store(true)
	return m, nil
}

// SetPrometheus says whether ?format=prometheus is answered.
func (m *Metrics) SetPrometheus(on bool) { m.prometheus.Store(on) }

// ServeHTTP answers /v1/metrics: the last window as JSON, or with
// ?format=prometheus everything in Prometheus' text format.
func (m *Metrics) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("format") == "prometheus" {
		if !m.prometheus.Load() {
			http.Error(w, "prometheus is off in this agent's telemetry block", http.StatusNotFound)
			return
		}
		m.text.ServeHTTP(w, r)
		return
	}
	v, err := m.inmem.DisplayMetrics(w, r)
	if err != nil {
		http.Error(w, "no metrics yet", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.Encode(v) // a reader that went away is not our error
}
