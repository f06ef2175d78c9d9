package http

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"slices"

	"github.com/novacron/novacron/api"
)

func vmRoutes() []Route {
	spec := append([]string{mimeJSON}, hclTypes...)
	return []Route{
		{
			Name: "vm.list", Method: "GET", Path: "/v1/vms", RPC: "VM.List", Capability: "vm:read", Query: true, Namespaced: true,
			Summary: "List VMs.", Response: api.VMListResponse{}, handle: readOf[api.ListRequest, api.VMListResponse](),
		},
		{
			Name: "vm.apply", Method: "POST", Path: "/v1/vms", RPC: "VM.Apply", Capability: "vm:write", Namespaced: true,
			Summary: "Create a VM or change its specification. The body is a VMApply, or a bare specification in JSON or HCL.",
			Request: api.VMApply{}, Response: api.VMApplied{}, Accepts: spec, handle: vmApply,
			Params: []Param{paramCheck, {Name: "power", Type: "string", Summary: "The power state to set, for bare specifications."}},
		},
		{
			Name: "vm.plan", Method: "POST", Path: "/v1/vms/plan", RPC: "VM.Plan", Capability: "vm:read", Namespaced: true,
			Summary: "Say what applying a specification would change, where the VM would go, and why. Changes nothing.",
			Request: api.VMPlan{}, Response: api.VMPlanned{}, Accepts: spec, handle: vmPlan,
		},
		{
			Name: "vm.parse", Method: "POST", Path: "/v1/vms/parse", Capability: "vm:read", Namespaced: true,
			Summary: "Turn the text of a specification into specifications, with defaults filled in and checked.",
			Request: api.ParseRequest{}, Response: api.ParseResponse{}, Accepts: spec, handle: vmParse,
			Params: []Param{{Name: "file", Type: "string", Summary: "Name of the text, for messages; for bodies in HCL."}},
		},
		{
			Name: "vm.get", Method: "GET", Path: "/v1/vm/{key}", RPC: "VM.Get", Capability: "vm:read", Query: true, Without: api.NotOne, Namespaced: true,
			Summary: "Get one VM by name, id or unambiguous prefix of the id.", Response: api.VMResponse{}, handle: readOf[api.GetRequest, api.VMResponse](),
		},
		{
			Name: "vm.delete", Method: "DELETE", Path: "/v1/vm/{key}", RPC: "VM.Delete", Capability: "vm:write", Namespaced: true,
			Summary: "Delete a VM and the volumes that are its own.", Response: api.WriteMeta{}, Params: []Param{paramCheck, paramForce}, handle: deleteOf,
		},
		{
			Name: "vm.status", Method: "GET", Path: "/v1/vm/{key}/status", RPC: "VM.Status", Capability: "vm:read", Query: true, Without: api.NotOne, Namespaced: true,
			Summary: "Everything a person asks about one VM: where, in which state, and why.", Response: api.VMStatusResponse{}, handle: readOf[api.GetRequest, api.VMStatusResponse](),
		},
		{
			Name: "vm.history", Method: "GET", Path: "/v1/vm/{key}/history", RPC: "VM.History", Capability: "vm:read", Query: true, Without: api.NotHistory, Namespaced: true,
			Summary: "List the versions of a VM's specification.", Response: api.VMHistoryResponse{}, handle: readOf[api.VMHistoryRequest, api.VMHistoryResponse](func(r *http.Request, q *api.VMHistoryRequest) error { return keyFrom(r, "key", &q.Key) }),
		},
		{
			Name: "vm.stats", Method: "GET", Path: "/v1/vm/{key}/stats", RPC: "VM.Stats", Capability: "vm:read", Query: true, Without: api.NotNow, Namespaced: true,
			Summary: "A sample of what the guest uses.", Response: api.VMStatsResponse{}, handle: readOf[api.GetRequest, api.VMStatsResponse](),
		},
		{
			Name: "vm.events", Method: "GET", Path: "/v1/vm/{key}/events", RPC: "Event.List", Capability: "event:read", Query: true, Without: api.NotEvents, Namespaced: true,
			Summary: "The newest events about a VM.", Response: api.EventListResponse{}, Params: []Param{paramLimit}, handle: vmEvents,
		},
		{
			Name: "vm.power", Method: "POST", Path: "/v1/vm/{key}/power", RPC: "VM.Power", Capability: "vm:power", Namespaced: true,
			Summary: "Start, stop, reboot, reset, pause or resume a VM.", Request: api.VMPower{}, Response: api.VMApplied{},
			handle: writeOf[api.VMPower, api.VMApplied](func(r *http.Request, p *api.VMPower) error {
				_ = namespaceFrom(r, &p.Namespace)
				return keyFrom(r, "key", &p.Key)
			}),
		},
		{
			Name: "vm.revert", Method: "POST", Path: "/v1/vm/{key}/revert", RPC: "VM.Revert", Capability: "vm:write", Namespaced: true,
			Summary: "Make an old version of the specification the newest.", Request: api.VMRevert{}, Response: api.VMApplied{},
			handle: writeOf[api.VMRevert, api.VMApplied](func(r *http.Request, p *api.VMRevert) error {
				_ = namespaceFrom(r, &p.Namespace)
				return keyFrom(r, "key", &p.Key)
			}),
		},
		{
			Name: "vm.console", Method: "GET", Path: "/v1/vm/{key}/console", RPC: "VM.Console", Capability: "vm:console", Namespaced: true, Stream: true,
			Summary: "The serial console over a WebSocket of the subprotocol nova-console: binary frames are data, text frames {\"rows\":24,\"cols\":80} tell the size of the viewer. Browsers add the subprotocol nova.ticket.<ticket>.",
			handle:  console,
		},
		{
			Name: "vm.console.ticket", Method: "POST", Path: "/v1/vm/{key}/console/ticket", RPC: "VM.Get", Capability: "vm:console", Namespaced: true,
			Summary: "Make a ticket that opens this VM's console on this agent once, within 30 seconds.", Response: api.ConsoleTicket{}, handle: consoleTicket,
		},
	}
}

// vmApply takes a VMApply, a bare spec in JSON, or a spec in HCL.
func vmApply(s *Server, w http.ResponseWriter, r *http.Request) error {
	req := &api.VMApply{Power: api.Power(r.URL.Query().Get("power"))}
	if r.URL.Query().Has("check_index") {
		n, err := uintParam(r, "check_index")
		if err != nil {
			return err
		}
		req.CheckIndex = &n
	}
	bare, err := s.specBody(r, &req.Spec, func(data []byte) error {
		*req = api.VMApply{}
		return api.UnmarshalJSON(data, req)
	})
	if err != nil {
		return err
	}
	if q := r.URL.Query(); !bare && (q.Has("check_index") || q.Has("power")) {
		return badParam("check_index", "belongs into the body of a VMApply")
	}
	_ = namespaceFrom(r, &req.Spec.Namespace)
	return s.write(w, r, req, &api.VMApplied{})
}

func vmPlan(s *Server, w http.ResponseWriter, r *http.Request) error {
	req := &api.VMPlan{}
	if _, err := s.specBody(r, &req.Spec, func(data []byte) error { return api.UnmarshalJSON(data, req) }); err != nil {
		return err
	}
	_ = namespaceFrom(r, &req.Spec.Namespace)
	return s.write(w, r, req, &api.VMPlanned{})
}

// specBody reads a body that is a spec, bare or in its envelope.
func (s *Server) specBody(r *http.Request, spec *api.VMSpec, envelope func([]byte) error) (bare bool, err error) {
	data, err := readAll(r, api.MaxBody)
	if err != nil {
		return false, err
	}
	if isHCL(r) {
		specs, err := s.parse(r, &api.ParseRequest{Text: string(data), Format: "hcl"})
		if err != nil {
			return true, err
		}
		if len(specs) != 1 {
			return true, api.Errorf(api.CodeInvalid, "the text has %d VMs: want one", len(specs)).WithHint("post it to /v1/vms/parse and apply them one by one")
		}
		*spec = specs[0]
		return true, nil
	}
	var top map[string]json.RawMessage
	if json.Unmarshal(data, &top) == nil {
		if _, ok := top["spec"]; ok {
			return false, envelope(data)
		}
	}
	return true, api.UnmarshalJSON(data, spec)
}

func readAll(r *http.Request, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err != nil {
		return nil, api.Errorf(api.CodeSyntax, "the body broke off")
	}
	if int64(len(data)) > limit {
		return nil, api.Errorf(api.CodeTooLarge, "the body is longer than %d bytes", limit)
	}
	return data, nil
}

func (s *Server) parse(r *http.Request, req *api.ParseRequest) ([]api.VMSpec, error) {
	if s.cfg.Parse == nil {
		return nil, api.Errorf(api.CodeUnsupported, "this agent does not parse specifications")
	}
	// Parsing costs time, and so is not for strangers.
	if err := s.cfg.Authorize(r.Context(), "vm:read"); err != nil {
		return nil, err
	}
	if err := prepare(req); err != nil {
		return nil, err
	}
	return s.cfg.Parse(r.Context(), req)
}

// vmParse takes a ParseRequest or the text itself.
func vmParse(s *Server, w http.ResponseWriter, r *http.Request) error {
	data, err := readAll(r, api.MaxBody)
	if err != nil {
		return err
	}
	req := &api.ParseRequest{}
	if isHCL(r) {
		req.Text, req.File = string(data), r.URL.Query().Get("file")
	} else if err := api.DecodeJSON(bytes.NewReader(data), api.MaxBody, req); err != nil {
		return err
	}
	specs, err := s.parse(r, req)
	if err != nil {
		return err
	}
	resp := &api.ParseResponse{Specs: make([]*api.VMSpec, 0, len(specs))}
	for i := range specs {
		_ = namespaceFrom(r, &specs[i].Namespace)
		if err := prepare(&specs[i]); err != nil {
			return err
		}
		resp.Specs = append(resp.Specs, &specs[i])
	}
	if len(resp.Specs) == 1 {
		resp.Spec = resp.Specs[0]
	}
	return s.answer(w, r, http.StatusOK, resp)
}

// vmEvents lists the events about a VM, which they name by its id.
func vmEvents(s *Server, w http.ResponseWriter, r *http.Request) error {
	get := &api.GetRequest{Key: keyOf(r)}
	req := &api.EventListRequest{Topics: []string{api.TopicVM, api.TopicPlacement, api.TopicVolume, api.TopicMigration}}
	if err := queryOf(r, s.routeOf(r), &req.QueryOptions); err != nil {
		return err
	}
	if err := limitOfEvents(r, req); err != nil {
		return err
	}
	get.Namespace, get.Consistency = req.Namespace, req.Consistency
	if err := prepare(get); err != nil {
		return err
	}
	if _, err := api.ParseID(get.Key); err == nil {
		// Events outlive their VM.
		req.Related = get.Key
	} else {
		var vm api.VMResponse
		if err := s.cfg.Backend.Call(r.Context(), "VM.Get", get, &vm); err != nil {
			return err
		}
		if vm.VM == nil {
			return api.Errorf(api.CodeNotFound, "there is no VM %s", clip(get.Key))
		}
		req.Related = vm.VM.ID.String()
	}
	if err := prepare(req); err != nil {
		return err
	}
	resp := &api.EventListResponse{}
	if err := s.cfg.Backend.Call(r.Context(), "Event.List", req, resp); err != nil {
		return err
	}
	resp.Items = slices.DeleteFunc(resp.Items, func(e *api.Event) bool { return e == nil })
	return s.answer(w, r, http.StatusOK, resp)
}
