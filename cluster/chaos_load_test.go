package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/rpc"
)

// opKind is what a client does to a key, which is a namespace.
type opKind int

const (
	opGet    opKind = iota // consistent
	opGuess                // a read without a quorum check
	opStale                // a read of any server
	opPut                  // create or change
	opDelete               // delete
)

func (k opKind) write() bool { return k >= opPut }

// result is what a client knows of an operation in the end.
type result int

const (
	resultUnknown result = iota // it may take effect at any time from its call
	resultOK
	resultRefused // by the check of the index, or because nothing is there
	resultNothing // an error that says that nothing happened
)

// op is an operation of a client.
type op struct {
	client  int
	kind    opKind
	key     string
	id      string // stored in the object
	check   *uint64
	keyed   bool          // with an idempotency key
	call    time.Duration // since the start
	ret     time.Duration
	result  result
	absent  bool       // a read found nothing
	seen    string     // the id that a read found
	index   uint64     // of the write, or of the object that was read
	life    *life      // the run of the server that answered a read; nil: not known
	stale   bool       // the label
	lastErr *api.Error // of a write that was not answered
}

// client is a user at a machine of its own.
type client struct {
	c     *chaos
	n     int
	addr  string
	pool  *rpc.Pool
	known map[string]uint64 // the index of a key as last seen
	count int
	at    int // the server that is asked next
}

const (
	chaosClients = 8
	chaosKeys    = 10
	callTime     = 1500 * time.Millisecond
	tries        = 6 // of a write with an idempotency key
)

func (c *chaos) client(n int) *client {
	addr := clientAddr(n)
	name := api.CertName{Region: "eu", Role: api.RoleClient, NodeID: api.NewID()}
	return &client{c: c, n: n, addr: addr, pool: rpc.NewPool(c.net.Transport(addr, name)), known: map[string]uint64{}, at: n}
}

// run works until ctx ends.
func (cl *client) run(ctx context.Context) {
	defer cl.pool.Close()
	for ctx.Err() == nil {
		cl.one()
		pause(ctx, rand.N(60*time.Millisecond))
	}
}

// one does one operation, picked at random.
func (cl *client) one() {
	if rand.N(20) == 0 {
		cl.at++
	}
	o := op{client: cl.n, key: keyName(rand.N(chaosKeys))}
	switch p := rand.N(100); {
	case p < 25:
		o.kind = opGet
	case p < 35:
		o.kind = opGuess
	case p < 45:
		o.kind = opStale
	case p < 95:
		o.kind = opPut
		if p >= 60 { // by the index that was seen last: 0 is "not there"
			at := cl.known[o.key]
			o.check = &at
		}
		o.keyed = p%2 == 0
	default:
		o.kind = opDelete
		o.keyed = p%2 == 0
		if at := cl.known[o.key]; at != 0 {
			o.check = &at
		}
	}
	cl.do(&o)
}

func (cl *client) do(o *op) {
	c := cl.c
	cl.count++
	o.id = fmt.Sprintf("op-%d-%d", cl.n, cl.count)
	o.call = time.Since(c.start)
	n := 1
	if o.keyed {
		n = tries
	}
	unknown := false
	for i := range n {
		if i > 0 {
			time.Sleep(100*time.Millisecond + rand.N(300*time.Millisecond))
		}
		err := cl.ask(o)
		o.result, o.lastErr = cl.judge(o, err), asAPI(err)
		if o.result == resultOK || o.result == resultRefused {
			break
		}
		unknown = unknown || o.result == resultUnknown
		cl.at++ // another server
	}
	if unknown && o.result == resultNothing {
		o.result = resultUnknown
	}
	o.ret = time.Since(c.start)
	if o.result == resultOK {
		cl.known[o.key] = o.index
		if o.absent || o.kind == opDelete {
			cl.known[o.key] = 0
		}
	} else if o.kind.write() {
		delete(cl.known, o.key)
	}
	c.mu.Lock()
	c.ops = append(c.ops, *o)
	c.mu.Unlock()
}

// ask makes one attempt.
func (cl *client) ask(o *op) error {
	c := cl.c
	hosts := c.members()
	h := hosts[cl.at%len(hosts)]
	if o.kind == opStale {
		h = hosts[rand.N(len(hosts))]
	}
	o.life = h.now()
	call := api.Call{Token: c.token}
	if o.keyed {
		call.IdempotencyKey = o.id
	}
	ctx, cancel := context.WithTimeout(api.WithCall(context.Background(), call), callTime)
	defer cancel()
	to := cl.pool.Get(h.addr)
	switch o.kind {
	case opPut:
		var out api.NamespaceResponse
		req := &api.NamespaceApply{Namespace: api.Namespace{Name: o.key, Description: o.id}, CheckIndex: o.check}
		err := to.Call(ctx, "Namespace.Apply", req, &out)
		o.index = out.Index
		return err
	case opDelete:
		var out api.WriteMeta
		req := &api.DeleteRequest{Key: o.key}
		if o.check != nil {
			req.CheckIndex = *o.check
		}
		err := to.Call(ctx, "Namespace.Delete", req, &out)
		o.index = out.Index
		return err
	}
	level := map[opKind]api.Consistency{opGet: api.ConsistencyConsistent, opGuess: api.ConsistencyDefault, opStale: api.ConsistencyStale}[o.kind]
	var out api.NamespaceResponse
	err := to.Call(ctx, "Namespace.Get", &api.GetRequest{Key: o.key, QueryOptions: api.QueryOptions{Consistency: level}}, &out)
	if h.now() != o.life {
		o.life = nil // nobody can say which run of the server it was
	}
	if api.CodeOf(err) == api.CodeNotFound {
		o.absent = true
		return nil
	}
	if err == nil {
		o.seen, o.index, o.stale = out.Namespace.Description, out.Namespace.ModifyIndex, out.Stale
	}
	return err
}

func asAPI(err error) *api.Error {
	if err == nil {
		return nil
	}
	return asError(err)
}

// judge says what an answer means.
func (cl *client) judge(o *op, err error) result {
	if err == nil {
		return resultOK
	}
	switch api.CodeOf(err) {
	case api.CodeConflict, api.CodeExists, api.CodeNotFound:
		return resultRefused
	case api.CodeNoLeader, api.CodeUnreachable:
		return resultNothing
	case api.CodeUnknown, api.CodeDeadline, api.CodeCanceled:
		return resultUnknown
	}
	cl.c.violation("%s of client %d: an error that nobody expects: %v", o.id, cl.n, err)
	return resultUnknown
}

func clientAddr(n int) string { return fmt.Sprintf("client-%d", n) }

func keyName(n int) string { return fmt.Sprintf("key-%d", n) }
