package agent

import (
	"net"
	"net/netip"
	"strconv"

	"github.com/novacron/novacron/api"
)

// bind is the address to listen on with a port.
func (c *Config) bind(port int) string { return net.JoinHostPort(c.BindAddr, strconv.Itoa(port)) }

// advertise is the address that others dial, or "" where it follows from the
// bound one (a port of zero is known only then).
func (c *Config) advertise(port int) string {
	if port == 0 {
		return ""
	}
	host := c.Advertise
	if host == "" {
		a, err := netip.ParseAddr(c.BindAddr)
		if err != nil || a.IsUnspecified() {
			return ""
		}
		host = c.BindAddr
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

// httpBind is the address that HTTP listens on.
func (c *Config) httpBind() string {
	if c.HTTP.Addr != "" {
		return net.JoinHostPort(c.HTTP.Addr, strconv.Itoa(c.Ports.HTTP))
	}
	return c.bind(c.Ports.HTTP)
}

// advertised is the address that others dial for a listener.
func (c *Config) advertised(ln net.Addr) (string, error) {
	_, port, err := net.SplitHostPort(ln.String())
	if err != nil {
		return "", err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return "", err
	}
	if a := c.advertise(n); a != "" {
		return a, nil
	}
	host, err := privateAddress()
	return net.JoinHostPort(host, port), err
}

// privateAddress is the first address of this machine that others may dial.
func privateAddress() (string, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil {
			return n.IP.String(), nil
		}
	}
	return "", api.Errorf(api.CodeConfig, "this machine has no address that others could dial").WithHint("set advertise")
}

// SetHTTPAddr sets address and port of the API from host:port.
func (c *Config) SetHTTPAddr(hostport string, from Source) error {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return &ConfigError{[]Finding{{Source: from, Message: err.Error(), Hint: "want host:port, such as 127.0.0.1:7646"}}}
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if err := c.Set("ports.http", port, from); err != nil {
		return err
	}
	return c.Set("http.addr", host, from)
}
