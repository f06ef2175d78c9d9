package command

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/novacron/novacron/api"
)

func snapshotSpecs() []*spec {
	return []*spec{
		{
			name: "operator snapshot save", args: "FILE", min: 1, max: 1, synopsis: "save the whole state to a file",
			long:     "The file holds no root key: keep that apart, a restore into a new cluster needs it.",
			examples: []string{"novacron operator snapshot save state.snap"},
			build:    simple(with(snapshotSave)),
		},
		{
			name: "operator snapshot restore", args: "FILE", min: 1, max: 1, synopsis: "replace the whole state by a saved one",
			long:     "Afterwards the region is in recovery: nothing is started or stopped until each node\nhas reported what it runs. See `novacron operator recovery status`.",
			examples: []string{"novacron operator snapshot restore state.snap"},
			build: func(f *flags) func(*call) error {
				sure := f.Bool("yes", false, "do not ask")
				return with(func(c *call, cl *api.Client) error { return snapshotRestore(c, cl, *sure) })
			},
		},
		{
			name: "operator snapshot inspect", args: "FILE", min: 1, max: 1, synopsis: "check a saved state and show what is in it", local: true,
			examples: []string{"novacron operator snapshot inspect state.snap", "novacron operator snapshot inspect state.snap -o json"},
			build: simple(func(c *call) error {
				m, err := readSnapshot(c.args[0])
				if err != nil {
					return err
				}
				return showSnapshot(c, m)
			}),
		},
	}
}

// readSnapshot verifies an archive without a cluster.
func readSnapshot(path string) (*api.SnapshotMeta, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return api.ReadArchive(f, io.Discard)
}

func snapshotSave(c *call, cl *api.Client) error {
	f, err := os.CreateTemp(filepath.Dir(c.args[0]), ".snapshot-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = cl.Operator().SnapshotSave(c, f)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	m, err := readSnapshot(f.Name())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), c.args[0]); err != nil {
		return err
	}
	return showSnapshot(c, m)
}

func snapshotRestore(c *call, cl *api.Client, sure bool) error {
	m, err := readSnapshot(c.args[0])
	if err != nil {
		return err
	}
	if !sure {
		fmt.Fprintf(c.env.Stderr, "Replace the state of the region by that of %s (index %d)? Type yes: ", clock(m.Time), m.Index)
		var answer string
		if _, err := fmt.Fscanln(c.env.Stdin, &answer); err != nil || answer != "yes" {
			return errors.New("nothing was changed; -yes answers the question")
		}
	}
	f, err := os.Open(c.args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	if m, err = cl.Operator().SnapshotRestore(c, f); err != nil {
		return err
	}
	if c.out.people() {
		fmt.Fprintln(c.env.Stderr, "Restored. The region is in recovery until each node has reported.")
	}
	return showSnapshot(c, m)
}

func showSnapshot(c *call, m *api.SnapshotMeta) error {
	return c.out.show(m, func() error {
		f := c.out.fields()
		f.add("Region", m.Region)
		f.add("Cluster", m.ClusterID.String())
		f.add("Taken", clock(m.Time))
		f.add("Index", fmt.Sprintf("%d (term %d)", m.Index, m.Term))
		f.add("Schema", fmt.Sprint(m.Schema))
		f.add("Generation", uintText(m.Generation))
		f.add("By", m.Version)
		f.add("Size", bytesText(m.Size))
		f.add("SHA-256", m.SHA256)
		f.write()
		if len(m.Tables) == 0 {
			return nil
		}
		fmt.Fprintln(c.out)
		t := c.out.table("TABLE", "RECORDS")
		for _, n := range m.Tables {
			t.row(n.Table, fmt.Sprint(n.Count))
		}
		return t.write("")
	})
}
