package agent

import (
	"slices"
	"strings"
)

// reloadable are the settings that take effect without a restart.
var reloadable = map[string]bool{
	"log.level": true, "telemetry.prometheus": true, "client.labels": true, "leave_on_terminate": true,
	"http.cert_file": true, "http.key_file": true,
}

// Reload takes over what can change while the agent runs. It returns the
// settings that changed, and those of them that need a restart.
func (a *Agent) Reload(next *Config) (changed, restart []string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	old := map[string]string{}
	each(a.cfg, func(path string, v leaf) { old[path] = v.text() })
	each(next, func(path string, v leaf) {
		if v.text() == old[path] || path == "data_dir" && a.cfg.Dev {
			return
		}
		changed = append(changed, path)
		if !reloadable[path] {
			restart = append(restart, path)
		}
	})
	if !slices.Equal(a.cfg.Client.Pools, next.Client.Pools) && next.Client.Pools != nil {
		changed, restart = append(changed, "client.pool"), append(restart, "client.pool")
	}
	if (a.cfg.HTTP.CertFile == "") != (next.HTTP.CertFile == "") {
		// From the node's certificate to an operator's, or back: the listener has
		// only the one that it began with.
		restart = append(restart, "http.cert_file")
	}
	if a.cfg.HTTP.CertFile != "" && next.HTTP.CertFile != "" {
		// Also when only the files' content has changed.
		if err := a.front.loadCertificate(next.HTTP); err != nil {
			return changed, restart, err
		}
		a.cfg.HTTP.CertFile, a.cfg.HTTP.KeyFile = next.HTTP.CertFile, next.HTTP.KeyFile
	}
	if err := a.log.SetLevel(next.Log.Level); err != nil {
		return changed, restart, err
	}
	a.cfg.Log.Level = next.Log.Level
	a.metrics.SetPrometheus(next.Telemetry.Prometheus)
	a.cfg.Telemetry.Prometheus = next.Telemetry.Prometheus
	a.cfg.LeaveOnTerminate = next.LeaveOnTerminate
	if a.client != nil && slices.Contains(changed, "client.labels") {
		a.cfg.Client.Labels = next.Client.Labels
		a.client.Refresh()
	}
	a.log.Info("configuration reloaded", "changed", strings.Join(changed, " "), "needs_restart", strings.Join(restart, " "))
	return changed, restart, nil
}
