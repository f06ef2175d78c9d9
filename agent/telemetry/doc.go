// Package telemetry is what an agent says about itself: its log (log/slog, text
// or JSON, with a level that can change while it runs) and its metrics
// (go-metrics, kept in memory and shown as JSON or in Prometheus' text format).
//
// Promises: Close ends everything it started; a change of level takes effect at
// the next line; secrets are never given to it.
//
// What does not belong: what is measured. Each room counts what it does, under
// "novacron.<room>.<what>", through the global of go-metrics/compat.
package telemetry
