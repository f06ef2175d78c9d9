package command

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/novacron/novacron/api"
)

func imageSpecs() []*spec {
	return []*spec{
		{
			name: "image list", synopsis: "list images",
			examples: []string{"novacron image list"},
			build: func(f *flags) func(*call) error {
				l := f.listFlags()
				return with(func(c *call, cl *api.Client) error {
					list, err := paged(l.q, func(q *api.QueryOptions) ([]*api.Image, string, error) {
						r, err := cl.Images().List(c, q)
						if err != nil {
							return nil, "", err
						}
						return r.Items, r.NextToken, nil
					})
					if err != nil {
						return err
					}
					return c.out.show(list, func() error {
						t := c.out.table("NAME", "ID", "KIND", "FORMAT", "SIZE", "DISK", "STATE", "COPIES", "SHA-256", "CREATED")
						for _, i := range list {
							t.row(i.Name, i.ID.Short(), i.Kind, i.Format, i.Size.String(), diskSize(i), c.out.state(string(i.State)), fmt.Sprint(len(i.Replicas)), clip(i.SHA256, 13), age(i.CreateTime, time.Now()))
						}
						return t.write("No images. `novacron image upload` brings one.")
					})
				})
			},
		},
		{
			name: "image status", args: "IMAGE", min: 1, max: 1, synopsis: "show an image and the nodes that hold it",
			examples: []string{"novacron image status debian-12"},
			build: simple(with(func(c *call, cl *api.Client) error {
				r, err := cl.Images().Get(c, c.args[0], nil)
				if err != nil {
					return err
				}
				return showImage(c, cl, r)
			})),
		},
		{
			name: "image upload", args: "FILE", min: 1, max: 1, synopsis: "upload an image",
			long:     "The SHA-256 is computed first and checked by every node that receives the content.\nKind and format are taken from the file's name where they are not given.",
			examples: []string{"novacron image upload debian-12.qcow2", "novacron image upload -name tick -kind kernel vmlinuz"},
			build:    imageUpload,
		},
		{
			name: "image download", args: "IMAGE FILE", min: 2, max: 2, synopsis: "download an image",
			examples: []string{"novacron image download debian-12 copy.qcow2"},
			build:    simple(with(imageDownload)),
		},
		deleteSpec("image", "delete images; volumes cloned from them keep what they need", func(cl *api.Client) deleter { return cl.Images() }),
	}
}

func diskSize(i *api.Image) string {
	if i.VirtualSize == 0 {
		return "-"
	}
	return i.VirtualSize.String()
}

func imageUpload(f *flags) func(*call) error {
	u := &api.ImageUpload{}
	f.StringVar(&u.Name, "name", "", "`name` of the image (default: the file's name without its ending)")
	f.StringVar(&u.Kind, "kind", "", "`kind`: disk, kernel or initrd")
	f.StringVar(&u.Format, "format", "", "`format`: qcow2 or raw")
	sum := f.String("sha256", "", "`digits` that the file's SHA-256 must be")
	lb := f.pairs("label", "a label `key=value`; may be repeated")
	return with(func(c *call, cl *api.Client) error {
		file, err := os.Open(c.args[0])
		if err != nil {
			return err
		}
		defer file.Close()
		info, err := file.Stat()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() || info.Size() == 0 {
			return fmt.Errorf("%s is not a file with content", c.args[0])
		}
		name := filepath.Base(c.args[0])
		u.Name = first(u.Name, strings.ToLower(strings.TrimSuffix(name, filepath.Ext(name))))
		u.Kind, u.Format = imageKind(name, u.Kind, u.Format)
		u.Size, u.Labels = api.Bytes(info.Size()), *lb

		p := c.progress()
		defer p.erase()
		h := sha256.New()
		reading := func(int64) {}
		if p.live { // elsewhere the upload alone is worth its lines
			reading = p.transfer("reading  ", info.Size())
		}
		if _, err := io.Copy(h, &counted{r: file, report: reading}); err != nil {
			return err
		}
		u.SHA256 = hex.EncodeToString(h.Sum(nil))
		if *sum != "" && !strings.EqualFold(*sum, u.SHA256) {
			return fmt.Errorf("the file's SHA-256 is %s, not %s", u.SHA256, *sum)
		}
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			return err
		}
		p.start = time.Now()
		r, err := cl.Images().Upload(c, u, file, p.transfer("uploading", info.Size()))
		p.erase()
		if err != nil {
			return err
		}
		return showImage(c, cl, r)
	})
}

// imageKind guesses what was not said from the file's name; the nodes check the
// content against it.
func imageKind(file, kind, format string) (string, string) {
	base := strings.ToLower(file)
	if kind == "" {
		switch {
		case strings.HasPrefix(base, "vmlinu"), strings.HasPrefix(base, "bzimage"), strings.HasPrefix(base, "kernel"):
			kind = "kernel"
		case strings.HasPrefix(base, "initr"), strings.Contains(base, ".cpio"):
			kind = "initrd"
		default:
			kind = "disk"
		}
	}
	if format == "" {
		format = "raw"
		if kind == "disk" && !strings.HasSuffix(base, ".raw") && !strings.HasSuffix(base, ".img") {
			format = "qcow2"
		}
	}
	return kind, format
}

// counted tells how many bytes have passed.
type counted struct {
	r      io.Reader
	n      int64
	report func(int64)
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if n > 0 {
		c.report(c.n)
	}
	return n, err
}

func imageDownload(c *call, cl *api.Client) error {
	r, err := cl.Images().Get(c, c.args[0], nil)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(c.args[1]), ".novacron-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	p := c.progress()
	defer p.erase()
	n, err := cl.Images().Download(c, r.Image.ID.String(), &api.QueryOptions{Namespace: r.Image.Namespace}, f, p.transfer("downloading", int64(r.Image.Size)))
	p.erase()
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), c.args[1]); err != nil {
		return err
	}
	c.out.say("%s: %s, SHA-256 checked", c.args[1], bytesText(n))
	return nil
}

func showImage(c *call, cl *api.Client, r *api.ImageResponse) error {
	return c.out.show(r.Image, func() error {
		i := r.Image
		names := nodeNames(c, cl)
		var on []string
		for _, id := range i.Replicas {
			on = append(on, names(id))
		}
		f := c.out.fields()
		f.add("Name", i.Name)
		f.add("ID", i.ID.String())
		f.add("Namespace", i.Namespace)
		f.add("Kind", i.Kind+" ("+i.Format+")")
		f.add("Size", i.Size.String())
		if i.VirtualSize > 0 {
			f.add("Disk", i.VirtualSize.String())
		}
		f.add("State", c.out.state(string(i.State)))
		f.add("SHA-256", i.SHA256)
		f.add("Nodes", orDash(strings.Join(on, " ")))
		f.add("Used by", plural(int(r.UsedBy), "volume"))
		f.add("Labels", labels(i.Labels))
		f.add("Created", age(i.CreateTime, time.Now()))
		f.write()
		return nil
	})
}
