// Package e2e tests the real binary: several hosts in network namespaces, real
// libvirt, real QEMU guests, real faults. The tests are behind the build tag
// e2e, because they need root and the packages that scripts/install.sh installs;
// "make test-e2e" runs them.
//
// What does not belong: what a test in one process can show.
package e2e
