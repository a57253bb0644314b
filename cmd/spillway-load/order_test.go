package main

import (
	"reflect"
	"testing"
)

func TestOrder(t *testing.T) {
	for _, tt := range []struct {
		name    string
		first   uint32
		seqs    []uint32
		end     uint32
		want    []verdict
		missing int
	}{
		{"all is well", 5, []uint32{5, 6, 7}, 8, []verdict{inOrder, inOrder, inOrder}, 0},
		{"nothing came", 5, nil, 8, nil, 3},
		{"the end is missing", 5, []uint32{5}, 8, []verdict{inOrder}, 2},
		{"the beginning is missing", 5, []uint32{7}, 8, []verdict{early}, 2},
		{"one between is missing", 5, []uint32{5, 7}, 8, []verdict{inOrder, early}, 1},
		{"what came before does not count", 5, []uint32{3, 4, 5, 6, 7}, 8, []verdict{ignored, ignored, inOrder, inOrder, inOrder}, 0},
		{"twice", 5, []uint32{5, 6, 6, 5, 7}, 8, []verdict{inOrder, inOrder, repeated, repeated, inOrder}, 0},
		{"swapped", 5, []uint32{6, 5, 7}, 8, []verdict{early, late, inOrder}, 0},
		{"late and again", 5, []uint32{6, 5, 5, 7}, 8, []verdict{early, late, repeated, inOrder}, 0},
		{"from the middle of a hole", 0, []uint32{4, 2, 1}, 5, []verdict{early, late, late}, 2},
		{"the edges of a hole", 0, []uint32{4, 0, 3, 0, 3}, 5, []verdict{early, late, late, repeated, repeated}, 2},
		{"several holes", 0, []uint32{1, 3, 5, 2, 0}, 6, []verdict{early, early, early, late, late}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var o order
			o.expect(tt.first)
			var got []verdict
			for _, seq := range tt.seqs {
				got = append(got, o.take(seq))
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if got := o.missing(tt.end); got != tt.missing {
				t.Errorf("%d missing, want %d", got, tt.missing)
			}
			if o.expect(90); o.missing(90) != 0 || o.take(90) != inOrder {
				t.Error("expect does not begin anew")
			}
		})
	}
}
