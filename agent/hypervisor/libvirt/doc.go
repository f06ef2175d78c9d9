// Package libvirt is the driver for QEMU guests under libvirt, through the pure
// Go client digitalocean/go-libvirt, which only this package imports.
//
// Promises: every call has a deadline; a call that does not come back is
// ErrUnknown, and its connection is not used again. Domains are transient, named
// nova-<id>, and carry NovaCron's metadata; others are never touched. Domain XML
// is made by encoding/xml from the types in xml.go, which have no way to say
// qemu:commandline, a host device or a shared folder. Nothing is ever probed:
// disk formats and backing chains are written out.
//
// Guests move peer to peer, paused to the end, through sockets that the caller
// provides. The destination gets the XML of the domain that runs, with nothing
// changed but what is the destination's own, so that the guest sees no difference.
//
// What does not belong: policy; creating disks, seeds or bridges.
package libvirt
