// Package spec turns the text of a VM specification, HCL2 or JSON, into the
// nouns of package api, and writes them as HCL again.
//
// Promises: a text cannot read anything (no files, no environment, no
// network), and costs at most what its limits allow: size, nesting, and the
// size of everything its expressions make are bounded before anything is
// evaluated. Errors carry line, column and a hint, all of them, not only the
// first. What comes out is as it was written: defaults and checks belong to
// package api.
//
// HCL brings its strings into Unicode's normal form C. User data that has to
// arrive byte for byte, whatever it is, stands in user_data_base64.
package spec
