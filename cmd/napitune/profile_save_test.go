package main

import (
	"testing"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/detect/knob"
)

// Without --from, the last choice of a person is saved, and none of what boot and
// guard did for a profile.
func TestTransactionValues(t *testing.T) {
	t.Parallel()
	made := func(id, profile string, state apply.State, restores bool) apply.Summary {
		return apply.Summary{ID: id, Profile: profile, State: state, Restores: restores, Drift: []apply.Drift{{Ref: knob.Global("net.core.dev_weight"), Wrote: id}}}
	}
	list := []apply.Summary{
		made("1", "balanced", apply.Confirmed, false),
		made("2", "balanced", apply.Confirmed, false),
		made("3", "balanced", apply.RolledBack, false),
		made("4", "edge (boot)", apply.Confirmed, false),
		made("5", "transactions of this boot", apply.Confirmed, true),
	}
	for _, test := range []struct {
		list []apply.Summary
		ids  []string
		want string
	}{
		{list, nil, "2"}, {list, []string{"4"}, "4"}, {list[2:], nil, ""}, {list, []string{"3"}, ""},
	} {
		values, source, err := transactionValues(test.list, test.ids)
		if got := values[knob.Global("net.core.dev_weight")]; got != test.want || (err == nil) != (test.want != "") || err == nil && source != "transaction "+test.want {
			t.Errorf("%v: %q from %q, %v; want %q", test.ids, got, source, err, test.want)
		}
	}
}
