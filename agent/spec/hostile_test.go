package spec

import (
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/hostile"
	"github.com/novacron/novacron/api/netconfig"
)

// taken is what becomes of a text: parsed, completed, checked.
func taken(t *testing.T, format, text string) (*api.VMSpec, error) {
	list, err := Parse(t.Context(), &api.ParseRequest{Format: format, Text: text, File: "hostile"})
	if err != nil {
		return nil, err
	}
	must.Len(t, 1, list)
	s := &list[0]
	s.Canonicalize()
	if err := s.Validate(); err != nil {
		return nil, err
	}
	return s, netconfig.CheckSpec(s)
}

func TestHostileSpecs(t *testing.T) {
	t.Parallel()
	for _, r := range hostile.Rows() {
		t.Run(r.Name, func(t *testing.T) {
			t.Parallel()
			_, err := taken(t, "json", r.JSON)
			must.Eq(t, r.Code, api.CodeOf(err), must.Sprint(err))
			if r.HCL == "" {
				return
			}
			_, err = taken(t, "hcl", r.HCL)
			must.SliceContains(t, []api.Code{api.CodeInvalid, api.CodeSyntax, api.CodeTooLarge}, api.CodeOf(err), must.Sprint(err))
			must.Less(t, 1000, len(err.Error()), must.Sprint("a message must not carry the input back"))
		})
	}
	for row, data := range hostile.Opaque() {
		t.Run(row, func(t *testing.T) {
			t.Parallel()
			for format, text := range map[string]string{"json": hostile.JSONOf(data), "hcl": hostile.HCLOf(data)} {
				s, err := taken(t, format, text)
				must.NoError(t, err)
				must.True(t, string(data) == string(s.CloudInit.UserData), must.Sprint(format))
			}
		})
	}
}
