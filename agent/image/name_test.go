package image

import (
	"bytes"
	"io/fs"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

// Two images of the servers may have the same content.
func TestContentStaysUntilItsLastName(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, Options{})
	b, spec := content(4096, 'n')
	one, two, three := api.NewID(), api.NewID(), api.NewID()
	_, err := c.Name(spec.SHA256, one)
	must.ErrorIs(t, err, fs.ErrNotExist)
	must.NoError(t, c.Drop(spec.SHA256, one))
	_, err = c.Put(t.Context(), spec, bytes.NewReader(b))
	must.NoError(t, err)
	for _, id := range []api.ID{one, two} {
		fresh, err := c.Name(spec.SHA256, id)
		must.NoError(t, err)
		must.True(t, fresh)
	}
	fresh, err := c.Name(spec.SHA256, one)
	must.NoError(t, err)
	must.False(t, fresh)

	must.NoError(t, c.Close())
	c = open(t, dir, Options{}) // names outlive the process
	must.Eq(t, []api.ID{one, two}, c.List()[0].Names)
	must.NoError(t, c.Drop(spec.SHA256, three))
	must.NoError(t, c.Drop(spec.SHA256, one))
	must.Eq(t, []api.ID{two}, c.List()[0].Names)
	must.NoError(t, c.Verify(t.Context(), spec.SHA256))
	must.NoError(t, c.Pin(spec.SHA256, three))
	must.Eq(t, api.CodeInUse, api.CodeOf(c.Drop(spec.SHA256, two)))
	must.Eq(t, []api.ID{two}, c.List()[0].Names)
	must.NoError(t, c.Unpin(spec.SHA256, three))
	must.NoError(t, c.Drop(spec.SHA256, two))
	must.SliceEmpty(t, c.List())
}
