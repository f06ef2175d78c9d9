package libvirt

import "encoding/xml"

// Namespace is the XML namespace of NovaCron's metadata in a domain.
const Namespace = "https://novacron.io/xmlns/domain/1"

// xmlDomain is the part of libvirt's domain XML that NovaCron writes. What is
// not here cannot be said.
type xmlDomain struct {
	XMLName    xml.Name     `xml:"domain"`
	Type       string       `xml:"type,attr"`
	Name       string       `xml:"name"`
	UUID       string       `xml:"uuid"`
	Metadata   xmlMetadata  `xml:"metadata"`
	Memory     xmlMemory    `xml:"memory"`
	VCPU       xmlVCPU      `xml:"vcpu"`
	OS         xmlOS        `xml:"os"`
	Features   *xmlFeatures `xml:"features"`
	CPU        xmlCPU       `xml:"cpu"`
	Clock      xmlClock     `xml:"clock"`
	OnPoweroff string       `xml:"on_poweroff"`
	OnReboot   string       `xml:"on_reboot"`
	OnCrash    string       `xml:"on_crash"`
	Devices    xmlDevices   `xml:"devices"`
}

type xmlMetadata struct {
	VM xmlVM `xml:"https://novacron.io/xmlns/domain/1 vm"`
}

// xmlVM is NovaCron's metadata: a hint, the journal decides.
type xmlVM struct {
	XMLName xml.Name `xml:"https://novacron.io/xmlns/domain/1 vm"`
	metadataBody
}

// xmlVMRead is how libvirt gives it back: without its namespace.
type xmlVMRead struct {
	XMLName xml.Name `xml:"vm"`
	metadataBody
}

type metadataBody struct {
	ID         string `xml:"id"`
	Namespace  string `xml:"namespace"`
	Name       string `xml:"name"`
	Epoch      uint64 `xml:"epoch"`
	Version    uint64 `xml:"version"`
	Generation uint64 `xml:"generation"`
	// MovedIn: the domain came by a migration and has not run here since. Move
	// writes it into the destination's XML.
	MovedIn movedIn `xml:"moved-in,omitempty"`
	// Disks say which name in the spec a device of the guest has.
	Disks []xmlVMDisk `xml:"disk"`
}

type xmlVMDisk struct {
	Dev  string `xml:"dev,attr"`
	Name string `xml:"name,attr"`
}

type xmlMemory struct {
	Unit  string `xml:"unit,attr"`
	Value int64  `xml:",chardata"`
}

type xmlVCPU struct {
	Placement string `xml:"placement,attr"`
	Value     int32  `xml:",chardata"`
}

type xmlOS struct {
	Type    xmlOSType  `xml:"type"`
	Loader  *xmlLoader `xml:"loader"`
	NVRAM   *xmlNVRAM  `xml:"nvram"`
	Kernel  string     `xml:"kernel,omitempty"`
	Initrd  string     `xml:"initrd,omitempty"`
	Cmdline string     `xml:"cmdline,omitempty"`
}

type xmlOSType struct {
	Arch    string `xml:"arch,attr"`
	Machine string `xml:"machine,attr"`
	Value   string `xml:",chardata"`
}

type xmlLoader struct {
	ReadOnly string `xml:"readonly,attr"`
	Type     string `xml:"type,attr"`
	Path     string `xml:",chardata"`
}

type xmlNVRAM struct {
	Template string `xml:"template,attr"`
	Path     string `xml:",chardata"`
}

type xmlFeatures struct {
	ACPI *struct{} `xml:"acpi"`
	APIC *struct{} `xml:"apic"`
}

type xmlCPU struct {
	Mode       string       `xml:"mode,attr"`
	Match      string       `xml:"match,attr,omitempty"`
	Check      string       `xml:"check,attr,omitempty"`
	Migratable string       `xml:"migratable,attr,omitempty"`
	Model      *xmlCPUModel `xml:"model"`
}

type xmlCPUModel struct {
	Fallback string `xml:"fallback,attr"`
	Value    string `xml:",chardata"`
}

type xmlClock struct {
	Offset string     `xml:"offset,attr"`
	Timers []xmlTimer `xml:"timer"`
}

type xmlTimer struct {
	Name       string `xml:"name,attr"`
	TickPolicy string `xml:"tickpolicy,attr,omitempty"`
	Present    string `xml:"present,attr,omitempty"`
}

type xmlDevices struct {
	Emulator    string          `xml:"emulator,omitempty"`
	Disks       []xmlDisk       `xml:"disk"`
	Controllers []xmlController `xml:"controller"`
	Interfaces  []xmlInterface  `xml:"interface"`
	Serials     []xmlSerial     `xml:"serial"`
	Consoles    []xmlConsole    `xml:"console"`
	Graphics    []xmlGraphics   `xml:"graphics"`
	Videos      []xmlVideo      `xml:"video"`
	MemBalloon  xmlBalloon      `xml:"memballoon"`
	RNGs        []xmlRNG        `xml:"rng"`
}

type xmlDisk struct {
	Type     string      `xml:"type,attr"`
	Device   string      `xml:"device,attr"`
	Driver   xmlDriver   `xml:"driver"`
	Source   xmlFile     `xml:"source"`
	Backing  *xmlBacking `xml:"backingStore"`
	Target   xmlTarget   `xml:"target"`
	ReadOnly *struct{}   `xml:"readonly"`
	Serial   string      `xml:"serial,omitempty"`
	Boot     *xmlBoot    `xml:"boot"`
}

type xmlDriver struct {
	Name    string `xml:"name,attr"`
	Type    string `xml:"type,attr"`
	Cache   string `xml:"cache,attr,omitempty"`
	Discard string `xml:"discard,attr,omitempty"`
}

type xmlFile struct {
	File  string       `xml:"file,attr"`
	Label *xmlSecLabel `xml:"seclabel"`
}

// xmlSecLabel says whether libvirt changes the owner of a file.
type xmlSecLabel struct {
	Model   string `xml:"model,attr"`
	Relabel string `xml:"relabel,attr"`
}

// xmlBacking is one step of a backing chain; an empty one ends it, so that
// libvirt never looks into the file.
type xmlBacking struct {
	Type   string      `xml:"type,attr,omitempty"`
	Format *xmlFormat  `xml:"format"`
	Source *xmlFile    `xml:"source"`
	Next   *xmlBacking `xml:"backingStore"`
}

type xmlFormat struct {
	Type string `xml:"type,attr"`
}

type xmlTarget struct {
	Dev string `xml:"dev,attr"`
	Bus string `xml:"bus,attr"`
}

type xmlBoot struct {
	Order int32 `xml:"order,attr"`
}

type xmlController struct {
	Type  string `xml:"type,attr"`
	Model string `xml:"model,attr,omitempty"`
}

type xmlInterface struct {
	Type   string    `xml:"type,attr"`
	MAC    xmlMAC    `xml:"mac"`
	Source xmlBridge `xml:"source"`
	Target *xmlDev   `xml:"target"`
	Model  xmlModel  `xml:"model"`
	MTU    *xmlMTU   `xml:"mtu"`
}

type xmlMAC struct {
	Address string `xml:"address,attr"`
}

type xmlBridge struct {
	Bridge string `xml:"bridge,attr"`
}

type xmlDev struct {
	Dev string `xml:"dev,attr"`
}

type xmlModel struct {
	Type string `xml:"type,attr"`
}

type xmlMTU struct {
	Size int32 `xml:"size,attr"`
}

type xmlSerial struct {
	Type   string        `xml:"type,attr"`
	Log    *xmlLog       `xml:"log"`
	Target xmlSerialPort `xml:"target"`
}

type xmlLog struct {
	File   string `xml:"file,attr"`
	Append string `xml:"append,attr"`
}

type xmlSerialPort struct {
	Type string `xml:"type,attr,omitempty"`
	Port int    `xml:"port,attr"`
}

type xmlConsole struct {
	Type   string        `xml:"type,attr"`
	Target xmlSerialPort `xml:"target"`
}

type xmlGraphics struct {
	Type   string    `xml:"type,attr"`
	Listen xmlListen `xml:"listen"`
}

type xmlListen struct {
	Type   string `xml:"type,attr"`
	Socket string `xml:"socket,attr,omitempty"`
}

type xmlVideo struct {
	Model xmlModel `xml:"model"`
}

type xmlBalloon struct {
	Model string `xml:"model,attr"`
}

type xmlRNG struct {
	Model   string     `xml:"model,attr"`
	Backend xmlRNGBack `xml:"backend"`
}

type xmlRNGBack struct {
	Model string `xml:"model,attr"`
	Path  string `xml:",chardata"`
}
