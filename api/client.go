package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

//msgp:ignore ClientConfig Client WriteOptions request

// Names of the headers that carry what accompanies a request or an answer.
const (
	HeaderToken       = "X-Nova-Token"
	HeaderIdempotency = "Idempotency-Key"
	HeaderRequestID   = "X-Request-Id"
	HeaderIndex       = "X-Nova-Index"
	HeaderKnownLeader = "X-Nova-Known-Leader"
	HeaderLastContact = "X-Nova-Last-Contact" // milliseconds
	HeaderNextToken   = "X-Nova-Next-Token"
	HeaderStale       = "X-Nova-Stale"
	HeaderSnapshot    = "X-Nova-Snapshot" // SnapshotMeta as JSON
)

// DefaultAddress is where an agent listens unless told otherwise.
const DefaultAddress = "https://127.0.0.1:7646"

// ClientConfig says how to reach an agent. Any agent will do: it passes
// requests on.
type ClientConfig struct {
	// Address is https://host:port, http://host:port, host:port (https) or
	// unix:///path. Default DefaultAddress.
	Address string
	Token   string
	// CACert holds the authorities to trust, as PEM. When it and CAHash are
	// empty, those of the system are trusted.
	CACert []byte
	// CAHash trusts the authority with this SHA-256 (64 hex digits of its DER
	// form), which the agent sends along. It suffices alone.
	CAHash string
	// Region asked; empty: the agent's own.
	Region string
	// Namespace of calls that name none; empty: "default".
	Namespace string
	// HTTPClient replaces the transport; Address may then be any URL, and the
	// console does not use it.
	HTTPClient *http.Client
	UserAgent  string
}

// Client speaks to one agent. It is safe for concurrent use. Its errors are
// *Error: those of the agent as they are, CodeUnreachable when there was no
// answer.
type Client struct {
	base                            url.URL
	http                            *http.Client
	dial                            func(ctx context.Context) (net.Conn, error)
	tls                             *tls.Config
	token, region, namespace, agent string
}

// NewClient checks the configuration; it does not connect.
func NewClient(cfg ClientConfig) (*Client, error) {
	or(&cfg.Address, DefaultAddress)
	or(&cfg.UserAgent, "novacron-go")
	raw := cfg.Address
	if !strings.Contains(raw, "://") {
		raw = "https://" + raw
	}
	u, err := url.Parse(raw)
	if err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, Errorf(CodeConfig, "%s is not an address", quote(cfg.Address)).WithHint("want https://host:7646 or unix:///path")
	}
	c := &Client{token: cfg.Token, region: cfg.Region, namespace: cfg.Namespace, agent: cfg.UserAgent, http: cfg.HTTPClient}
	network, target := "tcp", u.Host
	switch {
	case u.Scheme == "unix" && u.Path != "" && u.Host == "":
		network, target = "unix", u.Path
		c.base = url.URL{Scheme: "http", Host: "localhost"}
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
		if u.Port() == "" {
			target = net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
		}
		c.base = url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimSuffix(u.Path, "/")}
	default:
		return nil, Errorf(CodeConfig, "%s is not an address", quote(cfg.Address)).WithHint("want https://host:7646 or unix:///path")
	}
	if strings.ContainsAny(cfg.Token, "\r\n\x00") {
		return nil, Errorf(CodeConfig, "the token is not well formed")
	}
	if c.tls, err = clientTLS(cfg, u.Hostname()); err != nil {
		return nil, err
	}
	c.dial = func(ctx context.Context) (net.Conn, error) {
		d := net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
		return d.DialContext(ctx, network, target)
	}
	if c.http == nil {
		c.http = &http.Client{
			Transport: &http.Transport{
				DialContext:           func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
				TLSClientConfig:       c.tls,
				TLSHandshakeTimeout:   10 * time.Second,
				ExpectContinueTimeout: 5 * time.Second,
				MaxIdleConnsPerHost:   16,
				IdleConnTimeout:       90 * time.Second,
				ForceAttemptHTTP2:     true,
			},
			// A redirect would carry the token elsewhere.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return c, nil
}

// clientTLS trusts the system's authorities, or only those that were given.
// The authority of a cluster signs nothing but its own agents, so a name in
// its certificates need not be the host's.
func clientTLS(cfg ClientConfig, host string) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if len(cfg.CACert) == 0 && cfg.CAHash == "" {
		return t, nil
	}
	want, err := hex.DecodeString(cfg.CAHash)
	if err != nil || cfg.CAHash != "" && len(want) != sha256.Size {
		return nil, Errorf(CodeConfig, "%s is not the hash of an authority: want 64 hex digits", quote(cfg.CAHash))
	}
	given := x509.NewCertPool()
	if len(cfg.CACert) > 0 && !given.AppendCertsFromPEM(cfg.CACert) {
		return nil, Errorf(CodeConfig, "the authority's certificate is not PEM")
	}
	t.InsecureSkipVerify = true // VerifyConnection does it, with other rules for names
	t.VerifyConnection = func(cs tls.ConnectionState) error {
		roots, middle := given, x509.NewCertPool()
		for _, crt := range cs.PeerCertificates[1:] {
			sum := sha256.Sum256(crt.Raw)
			if len(want) > 0 && subtle.ConstantTimeCompare(sum[:], want) == 1 {
				roots = roots.Clone()
				roots.AddCert(crt)
			}
			middle.AddCert(crt)
		}
		leaf := cs.PeerCertificates[0]
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: middle, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
			return err
		}
		if slices.ContainsFunc(leaf.URIs, func(u *url.URL) bool { _, err := ParseCertName(u); return err == nil }) {
			return nil
		}
		return leaf.VerifyHostname(host)
	}
	return t, nil
}

// WithNamespace returns a client for another default namespace.
func (c *Client) WithNamespace(ns string) *Client {
	d := *c
	d.namespace = ns
	return &d
}

// WithRegion returns a client that asks another region.
func (c *Client) WithRegion(region string) *Client {
	d := *c
	d.region = region
	return &d
}

// WithToken returns a client that uses another token.
func (c *Client) WithToken(token string) *Client {
	d := *c
	d.token = token
	return &d
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// WriteOptions accompany a write.
type WriteOptions struct {
	// Namespace, when the request names none.
	Namespace string
	// IdempotencyKey makes the write safe to repeat for 10 minutes.
	IdempotencyKey string
}

// request is one call on its way.
type request struct {
	method, path string
	query        url.Values
	header       http.Header
	body         io.Reader // nil, or set by send
	length       int64     // of body; -1 when not known
	accept       string
}

func (c *Client) read(path string, q *QueryOptions) *request {
	r := &request{method: http.MethodGet, path: path, query: url.Values{}, header: http.Header{}}
	if q == nil {
		q = &QueryOptions{}
	}
	setQuery(r.query, q)
	if q.Namespace == "" && c.namespace != "" && inNamespace(path) {
		r.query.Set("namespace", c.namespace)
	}
	return r
}

func (c *Client) write(method, path string, o *WriteOptions) *request {
	r := &request{method: method, path: path, query: url.Values{}, header: http.Header{}}
	ns := ""
	if inNamespace(path) {
		ns = c.namespace
	}
	if o != nil {
		if o.Namespace != "" {
			ns = o.Namespace
		}
		if o.IdempotencyKey != "" {
			r.header.Set(HeaderIdempotency, o.IdempotencyKey)
		}
	}
	if ns != "" {
		r.query.Set("namespace", ns)
	}
	return r
}

// inNamespace reports whether a path is about nouns that live in namespaces; the
// client's namespace means nothing to the others.
func inNamespace(path string) bool {
	noun, _, _ := strings.Cut(strings.TrimPrefix(path, "/v1/"), "/")
	switch noun {
	case "vm", "vms", "migration", "migrations", "placement", "placements", "volume", "volumes", "image", "images", "events":
		return true
	}
	return false
}

func setQuery(v url.Values, q *QueryOptions) {
	set := func(k, s string) {
		if s != "" {
			v.Set(k, s)
		}
	}
	set("namespace", q.Namespace)
	set("consistency", string(q.Consistency))
	set("next_token", q.NextToken)
	set("prefix", q.Prefix)
	set("filter", q.Filter)
	if q.MinIndex != 0 {
		v.Set("index", strconv.FormatUint(q.MinIndex, 10))
	}
	if q.Wait != 0 {
		v.Set("wait", q.Wait.String())
	}
	if q.PerPage != 0 {
		v.Set("per_page", strconv.Itoa(int(q.PerPage)))
	}
}

func (r *request) set(key, value string) *request {
	if value != "" {
		r.query.Set(key, value)
	}
	return r
}

// seg escapes one segment of a path. "." and ".." would be taken for steps.
func seg(s string) string {
	if s == "." || s == ".." {
		return strings.ReplaceAll(s, ".", "%2E")
	}
	return url.PathEscape(s)
}

// url returns the URL of a request with the client's region.
func (c *Client) url(r *request) string {
	if c.region != "" {
		r.query.Set("region", c.region)
	}
	s := c.base.String() + r.path
	if len(r.query) > 0 {
		s += "?" + r.query.Encode()
	}
	return s
}

// open sends a request and returns the answer when its status is 2xx.
func (c *Client) open(ctx context.Context, r *request) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, c.url(r), r.body)
	if err != nil {
		return nil, Errorf(CodeInvalid, "%s", clip(err.Error()))
	}
	for k, v := range r.header {
		req.Header[k] = v
	}
	if r.length != 0 {
		req.ContentLength = r.length
	}
	req.Header.Set("User-Agent", c.agent)
	if r.accept != "" {
		req.Header.Set("Accept", r.accept)
	}
	if c.token != "" {
		req.Header.Set(HeaderToken, c.token)
	}
	if id := CallFrom(ctx).RequestID; id != "" {
		req.Header.Set(HeaderRequestID, id)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		return nil, errorOf(resp)
	}
	return resp, nil
}

// unreachable turns a failure of the transport into an error with a code.
func (c *Client) unreachable(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return Errorf(CodeCanceled, "the call was canceled")
	case ctx.Err() != nil:
		return Errorf(CodeDeadline, "no answer before the deadline")
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	if e := (*Error)(nil); errors.As(err, &e) {
		return e // from the reader of a body
	}
	return Errorf(CodeUnreachable, "no answer from %s: %s", c.base.Host, clip(err.Error()))
}

// errorOf reads the error of an answer.
func errorOf(resp *http.Response) error {
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	var e Error
	if mt, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); mt == "application/json" && json.Unmarshal(data, &e) == nil && e.Code != 0 {
		or(&e.RequestID, resp.Header.Get(HeaderRequestID))
		return &e
	}
	code := CodeInternal
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		code = CodeUnauthenticated
	case http.StatusForbidden:
		code = CodeForbidden
	case http.StatusNotFound:
		code = CodeNotFoundRoute
	case http.StatusTooManyRequests:
		code = CodeRateLimited
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		code = CodeUnreachable
	}
	return Errorf(code, "the answer is %s and no error of NovaCron", resp.Status).
		WithHint("is this the address of a NovaCron agent, with the right scheme?")
}

// call sends in as JSON, when it is not nil, and reads the answer into out.
func (c *Client) call(ctx context.Context, r *request, in, out any) error {
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return Errorf(CodeInvalid, "%s", clip(err.Error()))
		}
		r.body = bytes.NewReader(data)
		r.header.Set("Content-Type", "application/json")
	}
	resp, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		if ctx.Err() != nil {
			return c.unreachable(ctx, err)
		}
		return Errorf(CodeInternal, "the answer cannot be read: %s", clip(err.Error()))
	}
	if m, ok := out.(interface{ Meta() *QueryMeta }); ok {
		readMeta(resp.Header, m.Meta())
	}
	return nil
}

// readMeta fills in from the headers what the body does not say.
func readMeta(h http.Header, m *QueryMeta) {
	if n, err := strconv.ParseUint(h.Get(HeaderIndex), 10, 64); err == nil {
		or(&m.Index, n)
	}
	if ms, err := strconv.ParseInt(h.Get(HeaderLastContact), 10, 64); err == nil {
		or(&m.LastContact, Duration(ms)*Duration(time.Millisecond))
	}
	m.KnownLeader = m.KnownLeader || h.Get(HeaderKnownLeader) == "true"
	m.Stale = m.Stale || h.Get(HeaderStale) == "true"
	or(&m.NextToken, h.Get(HeaderNextToken))
}

// get reads a noun or a list of nouns.
func get[R any](ctx context.Context, c *Client, r *request) (*R, error) {
	out := new(R)
	if err := c.call(ctx, r, nil, out); err != nil {
		return nil, err
	}
	return out, nil
}

// put sends a body and reads the answer.
func put[R any](ctx context.Context, c *Client, r *request, in any) (*R, error) {
	out := new(R)
	if err := c.call(ctx, r, in, out); err != nil {
		return nil, err
	}
	return out, nil
}

// del sends a delete request; what it holds travels as parameters.
func del(ctx context.Context, c *Client, path string, d *DeleteRequest, o *WriteOptions) (*WriteMeta, error) {
	if d.Key == "" {
		return nil, Errorf(CodeInvalid, "the delete request is not valid: key: is missing")
	}
	r := c.write(http.MethodDelete, fmt.Sprintf(path, seg(d.Key)), o).set("namespace", d.Namespace)
	if d.CheckIndex != 0 {
		r.query.Set("check_index", strconv.FormatUint(d.CheckIndex, 10))
	}
	if d.Force {
		r.query.Set("force", "true")
	}
	return get[WriteMeta](ctx, c, r)
}

// one reads a noun by its key.
func one[R any](ctx context.Context, c *Client, path, key string, q *QueryOptions) (*R, error) {
	if key == "" {
		return nil, Errorf(CodeInvalid, "the query is not valid: key: is missing")
	}
	return get[R](ctx, c, c.read(fmt.Sprintf(path, seg(key)), q))
}
