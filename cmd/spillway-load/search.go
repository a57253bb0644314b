package main

import "math"

// search looks for the highest load that try says can be borne: it doubles from
// start until try says no or ceiling is passed, then halves the distance, as a
// ratio, refine times. It returns 0 when start cannot be borne, and what it
// knows so far with any error of try.
//
// Near the limit a load is borne at one time and not at the next, so the no that
// ends the doubling is asked again before it is believed.
func search(start, ceiling float64, refine int, try func(load float64) (bool, error)) (good float64, err error) {
	bad := 0.0
	for load := start; bad == 0 && load <= ceiling; load *= 2 {
		ok, err := try(load)
		if !ok && err == nil {
			ok, err = try(load)
		}
		switch {
		case err != nil:
			return good, err
		case ok:
			good = load
		default:
			bad = load
		}
	}
	if good == 0 || bad == 0 {
		return good, nil
	}
	for range refine {
		load := math.Sqrt(good * bad)
		ok, err := try(load)
		switch {
		case err != nil:
			return good, err
		case ok:
			good = load
		default:
			bad = load
		}
	}
	return good, nil
}
