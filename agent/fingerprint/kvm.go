package fingerprint

import (
	"os"
	"slices"
	"strings"
)

// kvm finds out whether hardware virtualisation works. That /dev/kvm opens is
// not enough: there are software back ends that accept it and then hang stock
// guests. On x86 the CPU must have svm or vmx too.
func kvm(m machine, f *Facts) error {
	reason := ""
	flags, _ := f.Attributes.Get("cpu.flags")
	have := strings.Fields(flags)
	arch, _ := f.Attributes.Get("cpu.arch")
	dev, err := os.OpenFile(m.path("dev/kvm"), os.O_RDWR, 0)
	switch {
	case err != nil:
		reason = "/dev/kvm does not open"
	case arch == "amd64" && !slices.Contains(have, "svm") && !slices.Contains(have, "vmx"):
		reason = "the CPU shows neither svm nor vmx"
	}
	if err == nil {
		err = dev.Close()
	} else {
		err = nil // a machine without KVM is no failure
	}
	f.KVM = reason == ""
	f.set("kvm", map[bool]string{true: "true", false: "false"}[f.KVM])
	f.set("kvm.reason", reason)
	return err
}
