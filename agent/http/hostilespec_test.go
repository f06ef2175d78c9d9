package http

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/novacron/novacron/agent/spec"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/hostile"
	"github.com/shoenig/test/must"
)

// TestHostileSpecs posts every hostile specification wherever one is taken:
// refused with a code, and nothing behind is asked.
func TestHostileSpecs(t *testing.T) {
	t.Parallel()
	f := newFake()
	h := New(Config{Backend: f, Rate: -1, Parse: spec.Parse, Authorize: func(context.Context, string) error { return nil }})
	parse := func(format, text string) string {
		b, err := json.Marshal(&api.ParseRequest{Format: format, Text: text})
		must.NoError(t, err)
		return string(b)
	}
	refused := func(t *testing.T, target, body, contentType string, codes ...api.Code) {
		t.Helper()
		w, e := do(h, "POST", target, body, "Content-Type", contentType)
		must.NotNil(t, e, must.Sprint(target, w.Body))
		must.Between(t, 400, w.Code, 499, must.Sprint(target, e))
		must.SliceContains(t, codes, e.Code, must.Sprint(target, e))
		must.Less(t, 1000, len(e.Message))
		must.Zero(t, f.count(), must.Sprint("it got through"))
	}
	for _, r := range hostile.Rows() {
		t.Run(r.Name, func(t *testing.T) {
			refused(t, "/v1/vms", r.JSON, mimeJSON, r.Code)
			refused(t, "/v1/vms", `{"spec":`+r.JSON+`}`, mimeJSON, r.Code)
			refused(t, "/v1/vms/plan", r.JSON, mimeJSON, r.Code)
			if !lossy(r.JSON) {
				refused(t, "/v1/vms/parse", parse("json", r.JSON), mimeJSON, r.Code)
			}
			if r.HCL == "" {
				return
			}
			refusals := []api.Code{api.CodeInvalid, api.CodeSyntax, api.CodeTooLarge}
			for _, target := range []string{"/v1/vms", "/v1/vms/plan", "/v1/vms/parse"} {
				refused(t, target, r.HCL, hclTypes[0], refusals...)
			}
		})
	}
	f.answer("VM.Apply", &api.VMApplied{})
	for row, data := range hostile.Opaque() {
		for contentType, text := range map[string]string{mimeJSON: hostile.JSONOf(data), hclTypes[0]: hostile.HCLOf(data)} {
			_, e := do(h, "POST", "/v1/vms", text, "Content-Type", contentType)
			must.Nil(t, e, must.Sprint(row))
			must.True(t, string(data) == string(f.last(t).req.(*api.VMApply).Spec.CloudInit.UserData), must.Sprint(row))
		}
	}
}

// lossy reports whether a text does not survive being a text within JSON.
func lossy(s string) bool {
	b, err := json.Marshal(s)
	var back string
	return err != nil || json.Unmarshal(b, &back) != nil || back != s
}
