package http

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/novacron/novacron/api"
)

// This file makes the OpenAPI description from the table of routes and the Go
// types; openapi_test.go compares it with what is committed.

type object = map[string]any

// special types have a JSON form of their own.
var special = map[reflect.Type]object{
	reflect.TypeFor[api.ID]():             {"type": "string", "format": "uuid"},
	reflect.TypeFor[api.Bytes]():          {"type": "integer", "format": "int64", "description": "Bytes. Requests may also say \"512MiB\"."},
	reflect.TypeFor[api.MilliCPU]():       {"type": "integer", "format": "int64", "description": "Thousandths of a core."},
	reflect.TypeFor[api.Time]():           {"type": "string", "format": "date-time", "nullable": true},
	reflect.TypeFor[api.Duration]():       {"type": "string", "description": "A duration such as 30s or 5m."},
	reflect.TypeFor[api.Pairs]():          {"type": "object", "additionalProperties": object{"type": "string"}},
	reflect.TypeFor[api.Code]():           {"type": "string", "pattern": "^NOVA-[0-9]{4}$"},
	reflect.TypeFor[[]byte]():             {"type": "string", "format": "byte"},
	reflect.TypeFor[api.Power]():          enum("running", "stopped", "paused"),
	reflect.TypeFor[api.Consistency]():    enum("default", "consistent", "stale"),
	reflect.TypeFor[api.Eligibility]():    enum("eligible", "ineligible"),
	reflect.TypeFor[api.NodeStatus]():     enum("init", "ready", "suspect", "lost", "left"),
	reflect.TypeFor[api.VolumeState]():    enum("pending", "ready", "failed", "deleting", "absent"),
	reflect.TypeFor[api.ImageState]():     enum("pending", "ready", "deleting"),
	reflect.TypeFor[api.TokenType]():      enum("management", "node", "join"),
	reflect.TypeFor[api.Firmware]():       enum("bios", "uefi"),
	reflect.TypeFor[api.VMState]():        enum("pending", "preparing", "starting", "running", "paused", "stopping", "stopped", "failed", "unknown", "absent"),
	reflect.TypeFor[api.MigrationMode]():  enum("live", "warm", "cold"),
	reflect.TypeFor[api.MigrationPhase](): enum("queued", "proposed", "prepared", "copying", "switched", "committed", "done", "aborting", "aborted"),
	reflect.TypeFor[api.EndState]():       enum("ready", "present", "copying", "switched", "complete", "running", "absent", "unknown"),
	reflect.TypeFor[*uint64]():            {"type": "integer", "format": "int64", "minimum": 0},
	reflect.TypeFor[map[string]string]():  {"type": "object", "additionalProperties": object{"type": "string"}},
}

func enum(words ...string) object { return object{"type": "string", "enum": words} }

// optional fields lack omitempty but need not be in a request.
var optional = []string{"key", "type", "cpu_ratio"}

type describer struct {
	schemas object
	docs    map[string]string // "Type" and "Type.Field"
}

// describe returns the whole description.
func describe(routes []Route) object {
	d := &describer{schemas: object{}, docs: comments("../../api")}
	paths := object{}
	for i := range routes {
		r := &routes[i]
		item, ok := paths[r.Path].(object)
		if !ok {
			item = object{}
			paths[r.Path] = item
		}
		item[strings.ToLower(r.Method)] = d.operation(r)
	}
	d.schema(reflect.TypeFor[api.Error]())
	return object{
		"openapi": "3.0.3",
		"info": object{
			"title": "NovaCron", "version": "v1",
			"description": "The HTTP API of every NovaCron agent. Lists and gets take ?index= to wait for a change. Writes take the header Idempotency-Key, with which they are safe to repeat for 10 minutes.",
			"license":     object{"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
		},
		"servers": []any{object{"url": "/"}},
		"paths":   paths,
		"components": object{
			"schemas":   d.schemas,
			"responses": object{"Error": object{"description": "An error.", "content": jsonBody(ref("Error"))}},
			"securitySchemes": object{
				"token":  object{"type": "apiKey", "in": "header", "name": api.HeaderToken},
				"bearer": object{"type": "http", "scheme": "bearer"},
			},
		},
	}
}

func ref(name string) object { return object{"$ref": "#/components/schemas/" + name} }

func jsonBody(schema object) object { return object{mimeJSON: object{"schema": schema}} }

func (d *describer) operation(r *Route) object {
	noun, _, _ := strings.Cut(r.Name, ".")
	op := object{
		"operationId": strings.ReplaceAll(r.Name, ".", "_"), "summary": r.Summary, "tags": []string{noun},
		"x-nova-capability": r.Capability,
	}
	if r.RPC != "" {
		op["x-nova-rpc"] = r.RPC
	}
	if r.Capability != "none" {
		op["security"] = []any{object{"token": []string{}}, object{"bearer": []string{}}}
	}
	var params []any
	if strings.Contains(r.Path, "{key}") {
		params = append(params, object{"name": "key", "in": "path", "required": true, "schema": object{"type": "string"}, "description": "Name, id, or unambiguous prefix of the id."})
	}
	for _, p := range r.AllParams() {
		schema := object{"type": p.Type}
		if p.Many {
			schema = object{"type": "array", "items": schema}
		}
		o := object{"name": p.Name, "in": "query", "schema": schema, "description": p.Summary}
		if p.Required {
			o["required"] = true
		}
		params = append(params, o)
	}
	op["parameters"] = params
	if r.Request != nil || len(r.Accepts) > 0 {
		content := object{}
		if r.Request != nil {
			s := d.schema(reflect.TypeOf(r.Request))
			switch r.Request.(type) {
			case api.VMApply, api.VMPlan:
				s = object{"anyOf": []any{s, ref("VMSpec")}}
			}
			content[mimeJSON] = object{"schema": s}
		}
		for _, a := range r.Accepts {
			if a == mimeBinary {
				content[a] = object{"schema": object{"type": "string", "format": "binary"}}
			} else if a != mimeJSON {
				content[a] = object{"schema": object{"type": "string"}}
			}
		}
		op["requestBody"] = object{"required": true, "content": content}
	}
	ok := object{"description": "Done."}
	switch {
	case r.Produces == mimeBinary:
		ok["content"] = object{mimeBinary: object{"schema": object{"type": "string", "format": "binary"}}}
	case r.Produces == mimeNDJSON:
		s := d.schema(reflect.TypeOf(r.Response))
		ok["content"] = object{mimeNDJSON: object{"schema": s}, mimeSSE: object{"schema": s}}
	case r.Response != nil:
		ok["content"] = jsonBody(d.schema(reflect.TypeOf(r.Response)))
	case r.Produces != "":
		ok["content"] = object{r.Produces: object{"schema": object{}}}
	}
	if r.Query {
		ok["headers"] = object{
			api.HeaderIndex:       header("integer", "The index of the answer."),
			api.HeaderKnownLeader: header("boolean", "Whether the server knows a leader."),
			api.HeaderLastContact: header("integer", "Milliseconds since the server heard of the leader."),
			api.HeaderNextToken:   header("string", "The next_token of the next page."),
		}
	}
	status := "200"
	if r.Name == "vm.console" {
		status = "101"
	}
	op["responses"] = object{status: ok, "default": object{"$ref": "#/components/responses/Error"}}
	return op
}

func header(kind, text string) object {
	return object{"schema": object{"type": kind}, "description": text}
}

// schema returns the schema of a type, and adds it to the components.
func (d *describer) schema(t reflect.Type) object {
	if s, ok := special[t]; ok {
		return s
	}
	switch t.Kind() {
	case reflect.Pointer:
		return d.schema(t.Elem())
	case reflect.Slice, reflect.Array:
		return object{"type": "array", "items": d.schema(t.Elem())}
	case reflect.Struct:
		if _, ok := d.schemas[t.Name()]; !ok {
			s := object{"type": "object"}
			d.schemas[t.Name()] = s // before the fields, which may lead back
			d.fields(t, s)
		}
		return ref(t.Name())
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Float64:
		return object{"type": "number", "format": "double"}
	case reflect.Int32:
		return object{"type": "integer", "format": "int32"}
	case reflect.Uint32, reflect.Uint64:
		return object{"type": "integer", "format": "int64", "minimum": 0}
	default:
		return object{"type": "integer", "format": "int64"}
	}
}

func (d *describer) fields(t reflect.Type, s object) {
	props, required := object{}, []string{}
	for f := range t.Fields() {
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		p := d.schema(f.Type)
		doc := d.docs[t.Name()+"."+f.Name]
		if doc != "" {
			if _, isRef := p["$ref"]; isRef {
				p = object{"allOf": []any{p}, "description": doc}
			} else {
				q := object{}
				for k, v := range p {
					q[k] = v
				}
				q["description"] = doc
				p = q
			}
		}
		props[name] = p
		if !strings.Contains(opts, "omit") && !slices.Contains(optional, name) && f.Type.Kind() != reflect.Pointer && f.Name != "QueryMeta" && f.Name != "WriteMeta" {
			required = append(required, name)
		}
	}
	if len(props) > 0 {
		s["properties"] = props
	}
	if len(required) > 0 {
		slices.Sort(required)
		s["required"] = required
	}
	if doc := d.docs[t.Name()]; doc != "" {
		s["description"] = doc
	}
}

// comments reads the doc comments of the types in a folder and of their fields.
func comments(dir string) map[string]string {
	out := map[string]string{}
	files, _ := filepath.Glob(filepath.Join(dir, "*.go"))
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") || strings.HasSuffix(name, "msgp_gen.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			g, ok := n.(*ast.GenDecl)
			if !ok || g.Tok != token.TYPE {
				return true
			}
			for _, sp := range g.Specs {
				ts := sp.(*ast.TypeSpec)
				out[ts.Name.Name] = flat(g.Doc)
				st, ok := ts.Type.(*ast.StructType)
				if !ok {
					continue
				}
				for _, fl := range st.Fields.List {
					text := strings.TrimSpace(flat(fl.Doc) + " " + flat(fl.Comment))
					for _, id := range fl.Names {
						out[ts.Name.Name+"."+id.Name] = text
					}
				}
			}
			return true
		})
	}
	return out
}

func flat(c *ast.CommentGroup) string {
	if c == nil {
		return ""
	}
	return strings.Join(strings.Fields(c.Text()), " ")
}
