package libvirt

import (
	"encoding/xml"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// node is an element of libvirt's XML, whatever it is. Libvirt has no elements
// with both text and children.
type node struct {
	XMLName xml.Name
	Attrs   []xml.Attr `xml:",any,attr"`
	Text    string     `xml:",chardata"`
	Nodes   []node     `xml:",any"`
}

// liveDomain is the XML of a running domain: all of it, with every address,
// version and default that libvirt has settled, so that what goes to the
// destination differs only in what is changed on purpose.
type liveDomain struct {
	XMLName  xml.Name    `xml:"domain"`
	Attrs    []xml.Attr  `xml:",any,attr"`
	Metadata xmlMetadata `xml:"metadata"`
	Nodes    []node      `xml:",any"`
}

func parseLive(text string) (*liveDomain, error) {
	var d liveDomain
	if err := xml.Unmarshal([]byte(text), &d); err != nil {
		return nil, fmt.Errorf("%w: the domain's XML: %w", hypervisor.ErrUnknown, err)
	}
	for _, a := range d.Attrs {
		if a.Name.Space != "" { // xmlns:qemu and the like
			return nil, api.Errorf(api.CodeUnsupported, "the domain has parts that NovaCron has not made (%s)", a.Name.Local)
		}
	}
	for i := range d.Nodes {
		d.Nodes[i].trim()
	}
	return &d, nil
}

// trim drops the indentation.
func (n *node) trim() {
	if len(n.Nodes) > 0 {
		n.Text = ""
	}
	for i := range n.Nodes {
		n.Nodes[i].trim()
	}
}

func child(nodes []node, name string) *node {
	for i := range nodes {
		if nodes[i].XMLName.Local == name {
			return &nodes[i]
		}
	}
	return nil
}

// at returns an attribute of a child; empty if there is none.
func (n *node) at(name, attr string) string {
	c := child(n.Nodes, name)
	if c == nil {
		return ""
	}
	i := slices.IndexFunc(c.Attrs, func(a xml.Attr) bool { return a.Name.Local == attr })
	if i < 0 {
		return ""
	}
	return c.Attrs[i].Value
}

// set changes or adds an attribute.
func (n *node) set(attr, value string) {
	for i := range n.Attrs {
		if n.Attrs[i].Name.Local == attr {
			n.Attrs[i].Value = value
			return
		}
	}
	n.Attrs = append(n.Attrs, xml.Attr{Name: xml.Name{Local: attr}, Value: value})
}

func (n *node) unset(attr string) {
	n.Attrs = slices.DeleteFunc(n.Attrs, func(a xml.Attr) bool { return a.Name.Local == attr })
}

// put replaces or adds a child.
func (n *node) put(name string, v any) error {
	b, err := xml.Marshal(v)
	if err != nil {
		return err
	}
	var c node
	if err := xml.Unmarshal(b, &c); err != nil {
		return err
	}
	c.XMLName = xml.Name{Local: name}
	if old := child(n.Nodes, name); old != nil {
		*old = c
		return nil
	}
	n.Nodes = append(n.Nodes, c)
	return nil
}

// mismatch says that the machine for the destination is not the one that runs.
func mismatch(format string, args ...any) error {
	return api.Errorf(api.CodeInvalid, "the machine is not the one that runs: "+format, args...)
}

// retarget changes what is the destination's own: paths of disks, firmware
// variables, kernel, and the serial log; bridges; metadata. copied are the targets
// whose content goes along, and whose format may therefore be another.
func (d *liveDomain) retarget(want *xmlDomain, copied []string, serialLog string) error {
	d.Metadata = want.Metadata
	d.Metadata.VM.MovedIn = movedWaiting
	for name, value := range map[string]string{
		"uuid": want.UUID, "memory": strconv.FormatInt(want.Memory.Value, 10), "vcpu": strconv.Itoa(int(want.VCPU.Value)),
	} {
		if n := child(d.Nodes, name); n == nil || n.Text != value {
			return mismatch("%s", name)
		}
	}
	if err := d.boot(want); err != nil {
		return err
	}
	devices := child(d.Nodes, "devices")
	if devices == nil {
		return mismatch("it has no devices")
	}
	disks, nics := 0, 0
	for i := range devices.Nodes {
		n := &devices.Nodes[i]
		switch n.XMLName.Local {
		case "disk":
			disks++
			if err := n.disk(want.Devices.Disks, copied); err != nil {
				return err
			}
		case "interface":
			nics++
			if err := n.nic(want.Devices.Interfaces); err != nil {
				return err
			}
		case "serial", "console":
			if log := child(n.Nodes, "log"); log != nil && serialLog != "" {
				log.set("file", serialLog)
			}
		case "graphics": // libvirt chooses sockets itself
			n.unset("socket")
			if l := child(n.Nodes, "listen"); l != nil {
				l.unset("socket")
			}
		}
	}
	if disks != len(want.Devices.Disks) || nics != len(want.Devices.Interfaces) {
		return mismatch("it has %d disks and %d interfaces, not %d and %d", disks, nics, len(want.Devices.Disks), len(want.Devices.Interfaces))
	}
	return nil
}

// thin reports whether only what lies above the base images is to be copied: each
// copied disk has a base at both ends or at neither, and one has. Libvirt takes
// either for all disks; of one without a base all is copied then too.
func (d *liveDomain) thin(want *xmlDomain, copied []string) bool {
	devices := child(d.Nodes, "devices")
	if devices == nil {
		return false
	}
	some := false
	for i := range devices.Nodes {
		n := &devices.Nodes[i]
		dev := n.at("target", "dev")
		k := slices.IndexFunc(want.Devices.Disks, func(w xmlDisk) bool { return w.Target.Dev == dev })
		if n.XMLName.Local != "disk" || k < 0 || !slices.Contains(copied, dev) {
			continue
		}
		b := want.Devices.Disks[k].Backing
		here, there := n.at("backingStore", "type") != "", b != nil && b.Source != nil
		if here != there {
			return false
		}
		some = some || here
	}
	return some
}

// boot changes the paths of kernel, initrd and variables.
func (d *liveDomain) boot(want *xmlDomain) error {
	os := child(d.Nodes, "os")
	if os == nil {
		return mismatch("it has no boot configuration")
	}
	nvram := ""
	if want.OS.NVRAM != nil {
		nvram = want.OS.NVRAM.Path
	}
	for name, path := range map[string]string{"kernel": want.OS.Kernel, "initrd": want.OS.Initrd, "nvram": nvram} {
		n := child(os.Nodes, name)
		if (n == nil) != (path == "") {
			return mismatch("%s", name)
		}
		if n != nil {
			n.Text = path
		}
	}
	return nil
}

// disk changes where a disk is.
func (n *node) disk(want []xmlDisk, copied []string) error {
	dev := n.at("target", "dev")
	i := slices.IndexFunc(want, func(w xmlDisk) bool { return w.Target.Dev == dev })
	if i < 0 {
		return mismatch("no disk %s", dev)
	}
	w := want[i]
	source, driver := child(n.Nodes, "source"), child(n.Nodes, "driver")
	if source == nil || driver == nil {
		return mismatch("disk %s is no file", dev)
	}
	source.Nodes = slices.DeleteFunc(source.Nodes, func(c node) bool { return c.XMLName.Local == "seclabel" })
	if len(source.Nodes) > 0 {
		return mismatch("disk %s is no file", dev)
	}
	if n.at("driver", "type") != w.Driver.Type && !slices.Contains(copied, dev) {
		return mismatch("disk %s has the format %s", dev, n.at("driver", "type"))
	}
	if (child(n.Nodes, "readonly") == nil) != (w.ReadOnly == nil) {
		return mismatch("disk %s is read-only at one end", dev)
	}
	source.Attrs = nil
	source.set("file", w.Source.File)
	if w.Source.Label != nil {
		if err := source.put("seclabel", w.Source.Label); err != nil {
			return err
		}
	}
	driver.set("type", w.Driver.Type)
	if w.Driver.Cache != "" {
		driver.set("cache", w.Driver.Cache)
	}
	return n.put("backingStore", w.Backing)
}

// nic changes the bridge of an interface.
func (n *node) nic(want []xmlInterface) error {
	mac := n.at("mac", "address")
	i := slices.IndexFunc(want, func(w xmlInterface) bool { return strings.EqualFold(w.MAC.Address, mac) })
	source := child(n.Nodes, "source")
	if i < 0 || source == nil {
		return mismatch("no interface %s", mac)
	}
	source.set("bridge", want[i].Source.Bridge)
	return nil
}

// uncached lists the targets whose writes never rest in this host's page cache,
// which is what makes a disk that both hosts see safe to move.
func (d *liveDomain) uncached() []string {
	var out []string
	devices := child(d.Nodes, "devices")
	for i := range devices.Nodes {
		n := &devices.Nodes[i]
		if n.XMLName.Local == "disk" && n.at("driver", "cache") == "none" {
			out = append(out, n.at("target", "dev"))
		}
	}
	return out
}
