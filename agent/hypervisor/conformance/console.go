package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// expect reads from a console until it has shown text, and returns everything.
// The dots that the boot sector writes each second may be anywhere in it.
func (s *suite) expect(r io.Reader, text string) string {
	s.Helper()
	var got bytes.Buffer
	buf := make([]byte, 4096)
	for !bytes.Contains(bytes.ReplaceAll(got.Bytes(), []byte("."), nil), []byte(text)) {
		n, err := r.Read(buf)
		got.Write(buf[:n])
		if err != nil {
			s.Fatalf("console: %v after %q, want %q", err, got.String(), text)
		}
	}
	return got.String()
}

func console(s *suite) {
	m := s.run()
	one, err := s.d.Console(s.ctx, m.ID)
	must.NoError(s, err)
	s.expect(one, s.h.Banner)
	_, err = one.Write([]byte("abcXYZ"))
	must.NoError(s, err)
	s.expect(one, "abcXYZ")

	two, err := s.d.Console(s.ctx, m.ID)
	must.NoError(s, err)
	s.expect(two, "abcXYZ") // what was shown before
	_, err = two.Write([]byte("0815"))
	must.NoError(s, err)
	s.expect(one, "0815")
	s.expect(two, "0815")

	must.NoError(s, one.Close())
	_, err = one.Read(make([]byte, 1))
	must.Error(s, err)
	must.NoError(s, two.Close())

	again, err := s.d.Console(s.ctx, m.ID) // after everybody had left
	must.NoError(s, err)
	s.expect(again, s.h.Banner)
	_, err = again.Write([]byte("back"))
	must.NoError(s, err)
	s.expect(again, "back")
	must.NoError(s, s.d.Destroy(s.ctx, m.ID))
	_, err = io.Copy(io.Discard, again) // ends with the guest
	must.NoError(s, err)
}

// consoleAgain: libvirt ends a new stream at once when the one before it is still
// closing, about once in 200 times.
func consoleAgain(s *suite) {
	m := s.run()
	for i := range 30 {
		c, err := s.d.Console(s.ctx, m.ID)
		must.NoError(s, err, must.Sprintf("attempt %d", i))
		s.expect(c, s.h.Banner)
		word := fmt.Sprintf("<%d>", i)
		_, err = c.Write([]byte(word))
		must.NoError(s, err)
		s.expect(c, word)
		must.NoError(s, c.Close())
	}
}

func noConsole(s *suite) {
	m := s.machine()
	m.Serial = false
	must.NoError(s, s.d.Start(s.ctx, m, true))
	_, err := s.d.Console(s.ctx, m.ID)
	must.Error(s, err)
	must.NotEq(s, 0, api.CodeOf(err))
	must.False(s, errors.Is(err, hypervisor.ErrUnknown))
}
