package main

import (
	"math"
	"testing"
)

func TestSpread(t *testing.T) {
	for _, tt := range []struct {
		name   string
		values []float64
		want   spread
	}{
		{"one", []float64{3}, spread{3, 3, 3, 1}},
		{"nine", []float64{9, 1, 8, 2, 7, 3, 6, 4, 5}, spread{3, 5, 7, 9}},
		{"between two", []float64{1, 2, 3, 4}, spread{1.75, 2.5, 3.25, 4}},
		{"what is no number does not count", []float64{1, math.NaN(), 3, math.Inf(1)}, spread{1.5, 2, 2.5, 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := spreadOf(tt.values); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
	if s := spreadOf(nil); s.Of != 0 || !math.IsNaN(s.Median) {
		t.Errorf("of nothing: %+v, want no number", s)
	}
}

func TestVerdict(t *testing.T) {
	s := spread{Q1: 0.8, Median: 0.9, Q3: 1.0, Of: 9}
	for _, tt := range []struct {
		goal goal
		want string
	}{
		{atLeast(0.7), met},
		{atLeast(0.85), met}, // the median reaches it
		{atLeast(0.9), met},
		{atLeast(0.95), notToldApart},
		{atLeast(1.0), notToldApart},
		{atLeast(1.1), missed},
		{atMost(1.1), met},
		{atMost(0.95), met},
		{atMost(0.85), notToldApart},
		{atMost(0.8), notToldApart},
		{atMost(0.7), missed},
		{goal{}, ""},
	} {
		if got := tt.goal.verdict(s); got != tt.want {
			t.Errorf("%+v: got %q, want %q", tt.goal, got, tt.want)
		}
	}
	if got := atLeast(1).verdict(spreadOf(nil)); got != "" {
		t.Errorf("of nothing: got %q, want no verdict", got)
	}
}
