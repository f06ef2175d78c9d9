package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

// Configure writes a file into the host's /etc/novacron.
func (h *Host) Configure(name, content string) error {
	return writeFile(filepath.Join(h.Dir(), "etc/novacron", name), content)
}

// AgentLog is the file that holds the agent's output.
func (h *Host) AgentLog() string { return filepath.Join(h.Dir(), "agent.log") }

// StartAgent starts "novacron agent" on the host with the configuration folder
// /etc/novacron and these further arguments.
func (h *Host) StartAgent(args ...string) error {
	log, err := os.OpenFile(h.AgentLog(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	full := append([]string{h.lab.Binary, "agent", "-config", "/etc/novacron"}, args...)
	cmd, err := h.Command(context.Background(), full...)
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), h.lab.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	h.agent, h.done = cmd, done
	go func() { cmd.Wait(); close(done) }()
	return nil
}

// KillAgent kills the agent with SIGKILL and waits for its end.
func (h *Host) KillAgent(ctx context.Context) error { return h.endAgent(ctx, "KILL") }

// StopAgent asks the agent to end (SIGTERM) and waits for it.
func (h *Host) StopAgent(ctx context.Context) error { return h.endAgent(ctx, "TERM") }

// SignalAgent sends a signal to the agent, and not to the guard, which is the same
// program; that there is no agent is no error.
func (h *Host) SignalAgent(ctx context.Context, signal string) error {
	if signal == "CONT" && h.agent != nil { // nsenter stops when what it runs is stopped
		if err := h.agent.Process.Signal(syscall.SIGCONT); err != nil {
			return err
		}
	}
	return h.pkill(ctx, signal, "-f", "^"+regexp.QuoteMeta(h.lab.Binary)+" agent ")
}

func (h *Host) endAgent(ctx context.Context, signal string) error {
	if h.done == nil {
		return errors.New("no agent was started")
	}
	if err := h.SignalAgent(ctx, signal); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	select {
	case <-h.done:
		return nil
	case <-wait.Done():
		_ = h.SignalAgent(context.WithoutCancel(ctx), "QUIT") // its stacks go to its log
		return fmt.Errorf("agent of %s: %w", h.Name, wait.Err())
	}
}

// Novacron runs the CLI on the host, as its root.
func (h *Host) Novacron(ctx context.Context, args ...string) (string, error) {
	return h.Run(ctx, append([]string{h.lab.Binary}, args...)...)
}
