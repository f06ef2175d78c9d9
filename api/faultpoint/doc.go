// Package faultpoint holds a process at a named place in its work, so that a
// test can break something exactly there. It does so only in a binary that was
// built with the tag "faultpoints"; in every other one Reach is empty and is
// inlined away.
//
// What does not belong: faults themselves; those come from outside.
package faultpoint
