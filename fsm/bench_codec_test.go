package fsm

import (
	"strconv"
	"testing"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"
	"github.com/novacron/novacron/api"
)

// BenchmarkCodec encodes and decodes one VM. Strict is what the log and
// snapshots ask for: decode, encode again and compare.
func BenchmarkCodec(b *testing.B) {
	vm := benchMake(7).vm
	ours, err := vm.MarshalMsg(nil)
	if err != nil {
		b.Fatal(err)
	}
	var theirs []byte
	if err := codec.NewEncoderBytes(&theirs, msgpackHandle).Encode(vm); err != nil {
		b.Fatal(err)
	}
	b.Run("encode/msgp", func(b *testing.B) {
		b.ReportAllocs()
		buf := make([]byte, 0, 4096)
		for b.Loop() {
			buf, _ = vm.MarshalMsg(buf[:0])
		}
		b.ReportMetric(float64(len(ours)), "bytes")
	})
	b.Run("encode/msgpack", func(b *testing.B) {
		b.ReportAllocs()
		var buf []byte
		enc := codec.NewEncoderBytes(&buf, msgpackHandle)
		for b.Loop() {
			enc.ResetBytes(&buf)
			_ = enc.Encode(vm)
		}
		b.ReportMetric(float64(len(theirs)), "bytes")
	})
	b.Run("decode/msgp", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var v api.VM
			if _, err := v.UnmarshalMsg(ours); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("decode/strict", func(b *testing.B) {
		b.ReportAllocs()
		var scratch []byte
		for b.Loop() {
			var v api.VM
			if scratch, err = decodeStrict(ours, &v, scratch); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("decode/msgpack", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var v api.VM
			if err := codec.NewDecoderBytes(theirs, msgpackHandle).Decode(&v); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkApply runs whole commands: decode, validate, change, publish.
func BenchmarkApply(b *testing.B) {
	w := region(b, 1)
	w.f.verify = nil
	entry := func(i int) []byte {
		c := &VMApply{ID: benchID('m', i), Spec: specOf("vm-"+strconv.Itoa(i), local("root")), VolumeIDs: []api.ID{benchID('v', i)}}
		data, err := Encode(c, Meta{Time: 1, Schema: 1})
		if err != nil {
			b.Fatal(err)
		}
		return data
	}
	b.Run("vm-apply/one", func(b *testing.B) {
		i := 0
		for b.Loop() {
			b.StopTimer()
			data := entry(i)
			b.StartTimer()
			if r := w.f.Apply(&raft.Log{Index: w.index + uint64(i), Data: data}).(*Result); r.Err != nil {
				b.Fatal(r.Err)
			}
			i++
		}
	})
	b.Run("hash", func(b *testing.B) {
		n := w.s().VMCount()
		for b.Loop() {
			w.s().Hash()
		}
		perVM(b, n)
	})
}
