package api

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/shoenig/test/must"
)

func TestDecodeJSONReadsWhatEncodingJSONWrites(t *testing.T) {
	t.Parallel()
	in := good()
	in.Labels = Pairs{{K: "App", V: "😀"}, {K: "app", V: "web"}}
	in.Disks = []Disk{{Name: "root", Image: "debian", Size: 10 * GiB, Bus: "virtio"}}
	in.CloudInit = &CloudInit{UserData: []byte{0, 255}, Hostname: "web"}
	text, err := json.Marshal(VMApply{Spec: *in, CheckIndex: new(uint64)})
	must.NoError(t, err)
	var out VMApply
	must.NoError(t, DecodeJSON(strings.NewReader(string(text)), 0, &out))
	must.Eq(t, *in, out.Spec)
	must.Eq(t, 0, *out.CheckIndex)
}

func TestDecodeJSONRefuses(t *testing.T) {
	t.Parallel()
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for name, c := range map[string]struct {
		text  string
		code  Code
		field string
		line  int32
	}{
		"nothing":              {"  \n", CodeSyntax, "", 0},
		"half an object":       {`{"spec":`, CodeSyntax, "", 1},
		"two values":           {`{}{}`, CodeSyntax, "", 1},
		"trailing text":        {"{}\nx", CodeSyntax, "", 2},
		"a comment":            {"{} // x", CodeSyntax, "", 1},
		"a byte order mark":    {"\ufeff{}", CodeSyntax, "", 1},
		"depth 33":             {`{"spec":{"disks":` + deep(32) + `}}`, CodeSyntax, "", 1},
		"depth a million":      {deep(1_000_000), CodeTooLarge, "", 0},
		"depth 900 thousand":   {deep(900_000), CodeSyntax, "", 0},
		"unknown":              {`{"spec":{"disks":[{},{"siez":1}]}}`, CodeUnknownField, "spec.disks[1].siez", 1},
		"twice":                {"{\"power\":\"a\",\n\"power\":\"b\"}", CodeDuplicateKey, "power", 2},
		"twice in what is odd": {`{"nix":{"a":1,"a":2}}`, CodeDuplicateKey, "nix.a", 1},
		"other case":           {`{"Spec":{}}`, CodeUnknownField, "Spec", 1},
		"list for an object":   {`{"spec":[]}`, CodeInvalid, "spec", 1},
		"text for an object":   {`{"spec":"x"}`, CodeInvalid, "spec", 1},
		"object for a list":    {`{"spec":{"disks":{}}}`, CodeInvalid, "spec.disks", 1},
		"number for an object": {`{"spec":1}`, CodeInvalid, "spec", 1},
		"text for a number":    {`{"spec":{"priority":"1"}}`, CodeInvalid, "spec.priority", 1},
		"fraction":             {`{"spec":{"priority":1.5}}`, CodeInvalid, "spec.priority", 1},
		"bad size":             {`{"spec":{"memory":"12 elephants"}}`, CodeInvalid, "spec.memory", 1},
		"negative size":        {`{"spec":{"memory":"-5"}}`, CodeInvalid, "spec.memory", 1},
		"bad duration":         {`{"spec":{"stop_timeout":"soon"}}`, CodeInvalid, "spec.stop_timeout", 1},
		"bad base64":           {`{"spec":{"cloud_init":{"user_data":"***"}}}`, CodeInvalid, "spec.cloud_init.user_data", 1},
		"label a number":       {`{"spec":{"labels":{"a":1}}}`, CodeInvalid, "spec.labels", 1},
		"negative index":       {`{"check_index":-1}`, CodeInvalid, "check_index", 1},
		"top level list":       {`[]`, CodeInvalid, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := DecodeJSON(strings.NewReader(c.text), 1_900_000, new(VMApply))
			var e *Error
			must.True(t, asError(err, &e), must.Sprintf("%v", err))
			must.Eq(t, c.code, e.Code, must.Sprint(e))
			if c.line != 0 {
				must.Eq(t, c.line, e.Details[0].Line)
			}
			if c.field != "" {
				must.SliceContainsFunc(t, e.Details, c.field, func(d Detail, f string) bool { return d.Field == f }, must.Sprint(e.Details))
			}
		})
	}
}

func TestDecodeJSONNamesEveryFieldAndSuggests(t *testing.T) {
	t.Parallel()
	err := DecodeJSON(strings.NewReader(`{"spec":{"memroy":1,"disk":[],"priority":"x","cpu":{"cores":true}}}`), 0, new(VMApply))
	var e *Error
	must.True(t, asError(err, &e))
	must.Eq(t, CodeUnknownField, e.Code)
	must.Len(t, 4, e.Details)
	must.Eq(t, `did you mean "memory"?`, e.Hint)
	must.StrContains(t, e.Details[1].Message, `"disks"`)
	must.StrContains(t, e.Details[2].Message, "whole number")
}

func TestDecodeJSONPassesReadErrorsOn(t *testing.T) {
	t.Parallel()
	boom := iotest.ErrReader(errors.New("connection reset"))
	must.Eq(t, CodeSyntax, CodeOf(DecodeJSON(boom, 0, new(VMApply))))
	late := iotest.ErrReader(Errorf(CodeDeadline, "too slow"))
	must.Eq(t, CodeDeadline, CodeOf(DecodeJSON(late, 0, new(VMApply))))
}

func TestSuggest(t *testing.T) {
	t.Parallel()
	words := []string{"memory", "cpu", "network", "constraint"}
	must.Eq(t, "memory", Suggest("memroy", words))
	must.Eq(t, "cpu", Suggest("CPUs", words))
	must.Eq(t, "", Suggest("elephant", words))
	must.Eq(t, "disk", Suggest("dsik", []string{"cpu", "disk"}))
	must.Eq(t, "", Suggest(strings.Repeat("m", 100), words))
}

// FuzzDecodeJSON: no text makes the decoder panic, and what it accepts is what
// encoding/json would accept with the same result.
func FuzzDecodeJSON(f *testing.F) {
	for _, s := range []string{
		`{"spec":{"name":"web","cpu":{"cores":1},"memory":"64MiB","labels":{"a":"b"}},"check_index":0}`,
		`{"spec":{"disks":[{"size":1},null],"boot":null}}`, `null`, `{"a":"\ud83d\ude00"}`, `{"power":"\ud800\u"}`, `[`, `{"spec":{"disks":[,]}}`, "\"\\u12\"",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var got, want VMApply
		if DecodeJSON(strings.NewReader(s), 0, &got) != nil {
			return
		}
		must.NoError(t, json.Unmarshal([]byte(s), &want))
		must.True(t, reflect.DeepEqual(want, got))
		got.Canonicalize()
		_ = got.Validate()
	})
}
