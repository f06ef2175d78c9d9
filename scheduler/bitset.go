package scheduler

import "math/bits"

// bitset is a set of dense node ids.
type bitset []uint64

// grow returns the set with room for n ids.
func (b bitset) grow(n int) bitset {
	for len(b)*64 < n {
		b = append(b, 0)
	}
	return b
}

func (b bitset) has(i int32) bool {
	w := int(i >> 6)
	return w < len(b) && b[w]&(1<<(uint(i)&63)) != 0
}

// put sets or clears one id; the set must have room for it.
func (b bitset) put(i int32, on bool) {
	if on {
		b[i>>6] |= 1 << (uint(i) & 63)
	} else {
		b[i>>6] &^= 1 << (uint(i) & 63)
	}
}

func (b bitset) count() int {
	n := 0
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

// fill makes b a copy of src.
func (b bitset) fill(src bitset) bitset {
	b = append(b[:0], src...)
	return b
}

// each calls f with every id in order until f returns false.
func (b bitset) each(f func(int32) bool) {
	for w, word := range b {
		for word != 0 {
			i := bits.TrailingZeros64(word)
			if !f(int32(w<<6 + i)) {
				return
			}
			word &= word - 1
		}
	}
}
