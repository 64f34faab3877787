package rules

import (
	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/profiles"
)

// Placed are the affinities that the placement counts on being written.
func Placed(o *detect.Observation, policy profiles.Policy) map[knob.Ref]int {
	c := newCase(ordered(o), policy)
	out := map[knob.Ref]int{}
	for _, p := range c.Paths {
		for _, s := range c.unsettled(p) {
			out[s.ref] = c.place().cpu[p]
		}
	}
	return out
}
