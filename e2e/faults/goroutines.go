package faults

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/e2e/lab"
)

// stacks is what the goroutines of a host's agent do, the equal ones together, as
// the Go profile "goroutine" with debug=1 has it.
func (b *Bed) stacks(ctx context.Context, h *lab.Host) (string, error) {
	// The certificate has no name that a stock client could check, and the lab's
	// bridge leads nowhere else.
	one := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}, Timeout: 10 * time.Second}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+h.Address+":7646/debug/pprof/goroutine?debug=1", nil)
	if err != nil {
		return "", err
	}
	req.Header.Set(api.HeaderToken, b.Token)
	resp, err := one.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, text)
	}
	return string(text), err
}

var (
	group = regexp.MustCompile(`^(\d+) @ `)
	// pooled are goroutines of connections that are kept for the next call. An agent
	// that has just started has few of them: their number says nothing.
	pooled = regexp.MustCompile(`google\.golang\.org/grpc|net/http\.\(\*(conn|persistConn|http2\w+)\)|cluster/rpc\.\(\*(mux|Port)\)`)
)

// countStacks sums up the goroutines of a profile but for those of pooled connections.
func countStacks(profile string) (n int, err error) {
	for g := range strings.SplitSeq(profile, "\n\n") {
		_, g, _ = strings.Cut("\n"+g, "\n")
		if strings.HasPrefix(g, "goroutine profile:") {
			_, g, _ = strings.Cut(g, "\n")
		}
		m := group.FindStringSubmatch(g)
		if m == nil || pooled.MatchString(g) {
			continue
		}
		k, err := strconv.Atoi(m[1])
		if err != nil {
			return 0, err
		}
		n += k
	}
	if n == 0 {
		return 0, fmt.Errorf("this is no profile of goroutines: %.100q", profile)
	}
	return n, nil
}

// goroutines counts those of an agent.
func (b *Bed) goroutines(ctx context.Context, h *lab.Host) (int, error) {
	text, err := b.stacks(ctx, h)
	if err != nil {
		return 0, fmt.Errorf("the goroutines of %s: %w", h.Name, err)
	}
	return countStacks(text)
}

// profile keeps what an agent's goroutines do.
func (b *Bed) profile(ctx context.Context, h *lab.Host, n int) error {
	text, err := b.stacks(ctx, h)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.out, fmt.Sprintf("%d-%s-goroutines.txt", n, h.Name)), []byte(text), 0o644)
}
