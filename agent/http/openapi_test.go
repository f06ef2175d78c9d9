package http

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/gorilla/mux"
	"github.com/novacron/novacron/api"
	"github.com/shoenig/test/must"
)

var update = flag.Bool("update", false, "write the description of the API anew")

func TestDescriptionIsThatOfTheTable(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", " ")
	enc.SetEscapeHTML(false)
	must.NoError(t, enc.Encode(describe(Routes())))
	if *update {
		must.NoError(t, os.WriteFile("openapi.json", b.Bytes(), 0o644))
		return
	}
	must.True(t, bytes.Equal(b.Bytes(), description), must.Sprint("openapi.json is not up to date: run go generate ./agent/http"))
}

func load(t *testing.T) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(Description())
	must.NoError(t, err)
	return doc
}

func TestDescriptionIsValid(t *testing.T) {
	t.Parallel()
	if *update {
		t.Skip("being written")
	}
	doc := load(t)
	must.NoError(t, doc.Validate(t.Context()))
	must.Eq(t, "3.0.3", doc.OpenAPI)
}

func TestEveryRouteIsDescribedAndNothingElse(t *testing.T) {
	t.Parallel()
	if *update {
		t.Skip("being written")
	}
	var served []string
	router := newServer(Config{Backend: newFake()}).router
	must.NoError(t, router.Walk(func(r *mux.Route, _ *mux.Router, _ []*mux.Route) error {
		path, err := r.GetPathTemplate()
		must.NoError(t, err)
		methods, err := r.GetMethods()
		must.NoError(t, err)
		for _, m := range methods {
			served = append(served, m+" "+path)
		}
		return nil
	}))
	var described []string
	for path, item := range load(t).Paths.Map() {
		for method := range item.Operations() {
			described = append(described, method+" "+path)
		}
	}
	slices.Sort(served)
	slices.Sort(described)
	must.Eq(t, served, described)
}

// The contract's list of paths, as one writes it down: a route that is lost
// does not go unseen.
func TestTheContractsPathsAreServed(t *testing.T) {
	t.Parallel()
	have := map[string]bool{}
	names := map[string]bool{}
	for _, r := range Routes() {
		have[r.Method+" "+r.Path] = true
		must.False(t, names[r.Name], must.Sprintf("%s is there twice", r.Name))
		names[r.Name] = true
		must.NotEq(t, "", r.Capability)
		must.NotEq(t, "", r.Summary)
	}
	for _, line := range strings.Split(strings.TrimSpace(`
GET POST /v1/vms
POST /v1/vms/parse
POST /v1/vms/plan
GET DELETE /v1/vm/{key}
GET /v1/vm/{key}/status
GET /v1/vm/{key}/history
GET /v1/vm/{key}/stats
GET /v1/vm/{key}/events
GET /v1/vm/{key}/console
POST /v1/vm/{key}/console/ticket
POST /v1/vm/{key}/power
POST /v1/vm/{key}/revert
GET POST /v1/migrations
GET PUT /v1/migration/{key}
POST /v1/migration/{key}/cancel
GET /v1/nodes
GET PUT DELETE /v1/node/{key}
GET /v1/node/{key}/stats
POST /v1/node/{key}/fence
PUT /v1/node/{key}/deny
PUT /v1/node/{key}/drain
GET /v1/placements
GET /v1/placement/{key}
GET POST /v1/volumes
GET DELETE /v1/volume/{key}
GET /v1/pools
GET PUT DELETE /v1/pool/{key}
GET POST /v1/images
GET DELETE /v1/image/{key}
GET /v1/image/{key}/content
GET /v1/networks
GET PUT DELETE /v1/network/{key}
GET /v1/namespaces
GET PUT DELETE /v1/namespace/{key}
GET POST /v1/tokens
GET DELETE /v1/token/{key}
GET /v1/events
GET /v1/events/list
GET /v1/status/leader
GET /v1/status/members
GET /v1/regions
GET DELETE /v1/operator/raft
POST /v1/operator/raft/transfer
GET PUT /v1/operator/snapshot
GET PUT /v1/operator/schema
GET PUT /v1/operator/scheduler
GET POST /v1/operator/recovery
GET /v1/agent/self
GET /v1/agent/health
GET /v1/metrics
GET /v1/openapi.json`), "\n") {
		words := strings.Fields(line)
		path := words[len(words)-1]
		for _, m := range words[:len(words)-1] {
			must.True(t, have[m+" "+path], must.Sprintf("%s %s is missing", m, path))
		}
	}
}

// Independent of how the description is made: each schema has the fields of its
// Go type by their JSON names, and no others.
func TestSchemasHaveTheFieldsOfTheGoTypes(t *testing.T) {
	t.Parallel()
	if *update {
		t.Skip("being written")
	}
	schemas := load(t).Components.Schemas
	seen := map[reflect.Type]bool{}
	var visit func(reflect.Type)
	visit = func(ty reflect.Type) {
		if _, ok := special[ty]; ok {
			return
		}
		for ty.Kind() == reflect.Pointer || ty.Kind() == reflect.Slice {
			ty = ty.Elem()
		}
		if ty.Kind() != reflect.Struct || seen[ty] {
			return
		}
		seen[ty] = true
		s := schemas[ty.Name()]
		must.NotNil(t, s, must.Sprintf("%s is not described", ty.Name()))
		want := map[string]bool{}
		for f := range ty.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name != "" && name != "-" {
				want[name] = true
				visit(f.Type)
			}
		}
		for name := range want {
			must.MapContainsKey(t, s.Value.Properties, name, must.Sprintf("%s.%s", ty.Name(), name))
		}
		must.MapLen(t, len(want), s.Value.Properties, must.Sprint(ty.Name()))
	}
	for _, r := range Routes() {
		for _, v := range []any{r.Request, r.Response, api.Error{}} {
			if v != nil {
				visit(reflect.TypeOf(v))
			}
		}
	}
	must.Greater(t, 60, len(seen))
}

func TestParametersAreDescribed(t *testing.T) {
	t.Parallel()
	if *update {
		t.Skip("being written")
	}
	doc := load(t)
	for _, r := range Routes() {
		op := doc.Paths.Value(r.Path).GetOperation(r.Method)
		var want, got []string
		for _, p := range r.AllParams() {
			want = append(want, p.Name)
		}
		for _, p := range op.Parameters {
			if p.Value.In == "query" {
				got = append(got, p.Value.Name)
			}
		}
		must.SliceContainsAll(t, want, got, must.Sprint(r.Name))
	}
}
