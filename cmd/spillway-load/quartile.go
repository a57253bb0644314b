package main

import (
	"encoding/json"
	"math"
	"slices"
)

// A spread is the quartiles of some figures.
type spread struct {
	Q1     float64 `json:"q1"`
	Median float64 `json:"median"`
	Q3     float64 `json:"q3"`
	Of     int     `json:"of"` // figures
}

// MarshalJSON implements json.Marshaler: null where there are no figures.
func (s spread) MarshalJSON() ([]byte, error) {
	if s.Of == 0 {
		return []byte("null"), nil
	}
	type plain spread
	return json.Marshal(plain(s))
}

// spreadOf returns the quartiles of values, between two of them by their
// distance (Hyndman and Fan's definition 7). Those that are no numbers are left
// out; of none at all every quartile is NaN.
func spreadOf(values []float64) spread {
	v := slices.DeleteFunc(slices.Clone(values), func(x float64) bool { return math.IsNaN(x) || math.IsInf(x, 0) })
	if len(v) == 0 {
		return spread{math.NaN(), math.NaN(), math.NaN(), 0}
	}
	slices.Sort(v)
	at := func(q float64) float64 {
		h := q * float64(len(v)-1)
		i := int(h)
		if i+1 == len(v) {
			return v[i]
		}
		return v[i] + (h-float64(i))*(v[i+1]-v[i])
	}
	return spread{at(0.25), at(0.5), at(0.75), len(v)}
}

// A goal is what a figure should be. The zero goal is none.
type goal struct {
	Value  float64 `json:"value"`
	AtMost bool    `json:"atMost,omitempty"` // else at least
}

func atLeast(v float64) goal { return goal{Value: v} }
func atMost(v float64) goal  { return goal{Value: v, AtMost: true} }

// The verdicts on a goal.
const (
	met          = "met"
	missed       = "missed"
	notToldApart = "not told apart"
)

// verdict is met when the median reaches the goal, missed when not even the
// better quartile does, and in between noise hides which; "" where there is no
// goal or no figure.
func (g goal) verdict(s spread) string {
	if g == (goal{}) || s.Of == 0 {
		return ""
	}
	better, median, value := s.Q3, s.Median, g.Value
	if g.AtMost {
		better, median, value = -s.Q1, -s.Median, -value
	}
	switch {
	case median >= value:
		return met
	case better < value:
		return missed
	default:
		return notToldApart
	}
}
