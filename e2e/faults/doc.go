// Package faults breaks things under running guests on a lab, and reports what
// came of it: one result for each run, with what was broken when, how it ended,
// and every invariant that did not hold. What is asked is never NovaCron alone:
// the guest's own disk (package detector), QEMU's processes (package truth) and
// a census of each host's resources have their say.
//
// A run that did not reach its cut point, or whose guest wrote nothing, is void:
// it proves nothing and is never counted as good.
//
// What does not belong: assertions about a single feature (package e2e).
package faults
