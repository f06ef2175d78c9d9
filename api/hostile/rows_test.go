package hostile_test

import (
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/hostile"
	"github.com/novacron/novacron/api/netconfig"
)

// Each hostile specification is refused with a code, or passes byte for byte
// where it is the guest's own business.
func TestHostileSpecs(t *testing.T) {
	t.Parallel()
	for _, r := range hostile.Rows() {
		t.Run(r.Name, func(t *testing.T) {
			t.Parallel()
			err := decodeSpec(r.JSON, new(api.VMSpec))
			must.Error(t, err)
			e, ok := err.(*api.Error)
			must.True(t, ok, must.Sprintf("%T: %v", err, err))
			must.Eq(t, r.Code, e.Code, must.Sprint(err))
			must.Less(t, 500, e.Status())
			must.Less(t, 600, len(e.Message), must.Sprint("a message must not carry the input back"))
			if r.Field != "" {
				must.SliceContainsFunc(t, e.Details, r.Field, func(d api.Detail, f string) bool { return d.Field == f }, must.Sprint(e.Details))
			}
		})
	}
	for row, data := range hostile.Opaque() {
		t.Run(row, func(t *testing.T) {
			t.Parallel()
			var s api.VMSpec
			must.NoError(t, decodeSpec(hostile.JSONOf(data), &s))
			must.True(t, string(data) == string(s.CloudInit.UserData))
		})
	}
}

func decodeSpec(text string, s *api.VMSpec) error {
	if err := api.DecodeJSON(strings.NewReader(text), 0, s); err != nil {
		return err
	}
	s.Canonicalize()
	if err := s.Validate(); err != nil {
		return err
	}
	return netconfig.CheckSpec(s)
}
