package apply

import (
	"strings"
	"testing"

	"github.com/napitune/napitune/detect/host/hosttest"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

func TestFindDevices(t *testing.T) {
	t.Parallel()
	const slot, other = "0000:01:00.0", "0000:02:00.0"
	type dev = plan.OriginDevice
	for _, tt := range []struct {
		name     string
		was, now []dev
		want     string // the name of eth0 by now, or why it is not there
	}{
		{"as it was", []dev{{Name: "eth0", Driver: "ice", Bus: slot, Index: 2}}, []dev{{Name: "eth0", Driver: "ice", Bus: slot, Index: 2}}, "eth0"},
		{"not described", nil, []dev{{Name: "eth0", Driver: "ice", Bus: slot, Index: 2}}, "eth0"},
		{"renamed", []dev{{Name: "eth0", Driver: "ice", Bus: slot, Index: 2}}, []dev{{Name: "lan0", Driver: "ice", Bus: slot, Index: 2}}, "lan0"},
		{"renamed, without a bus", []dev{{Name: "eth0", Driver: "veth", Index: 2}}, []dev{{Name: "lan0", Driver: "veth", Index: 2}}, "lan0"},
		{"plugged in again", []dev{{Name: "eth0", Driver: "ice", Bus: slot, Index: 2}}, []dev{{Name: "eth0", Driver: "ice", Bus: slot, Index: 9}}, "eth0"},
		{"plugged in again under another name", []dev{{Name: "eth0", Driver: "ice", Bus: slot, Index: 2}}, []dev{{Name: "lan0", Driver: "ice", Bus: slot, Index: 9}}, "lan0"},
		{"names swapped", []dev{{Name: "eth0", Driver: "ice", Bus: slot, Index: 2}, {Name: "eth1", Driver: "ice", Bus: other, Index: 3}},
			[]dev{{Name: "eth1", Driver: "ice", Bus: slot, Index: 2}, {Name: "eth0", Driver: "ice", Bus: other, Index: 3}}, "eth1"},
		{"unplugged", []dev{{Name: "eth0", Driver: "ice", Bus: slot, Index: 2}}, []dev{{Name: "eth1", Driver: "ice", Bus: other, Index: 3}},
			"there is no device eth0 in this network namespace"},
		{"its name was taken", []dev{{Name: "eth0", Driver: "ice", Bus: slot, Index: 2}, {Name: "eth1", Driver: "ice", Bus: other, Index: 3}},
			[]dev{{Name: "eth0", Driver: "ice", Bus: other, Index: 3}}, "eth0 is another device by now (ice 0000:02:00.0, was ice 0000:01:00.0)"},
		{"another driver", []dev{{Name: "eth0", Driver: "ice", Bus: slot, Index: 2}}, []dev{{Name: "eth0", Driver: "igb", Bus: slot, Index: 2}},
			"eth0 is another device by now (igb 0000:01:00.0, was ice 0000:01:00.0)"},
		{"made anew without a bus", []dev{{Name: "eth0", Driver: "veth", Index: 2}}, []dev{{Name: "eth0", Driver: "veth", Index: 9}},
			"the device was made anew since (interface index 2, now 9)"},
		{"no index is known", []dev{{Name: "eth0", Driver: "veth"}}, []dev{{Name: "eth0", Driver: "veth", Index: 9}}, "eth0"},
		{"two ports, plugged in again", []dev{{Name: "eth0", Driver: "mlx4", Bus: slot, Index: 2}, {Name: "eth1", Driver: "mlx4", Bus: slot, Index: 3}},
			[]dev{{Name: "eth1", Driver: "mlx4", Bus: slot, Index: 8}, {Name: "eth0", Driver: "mlx4", Bus: slot, Index: 9}}, "eth0"},
		{"two ports, one took the name of the other", []dev{{Name: "eth0", Driver: "mlx4", Bus: slot, Index: 2}, {Name: "eth1", Driver: "mlx4", Bus: slot, Index: 3}},
			[]dev{{Name: "eth0", Driver: "mlx4", Bus: slot, Index: 3}}, "the device was made anew since (interface index 2, now 3)"},
	} {
		_, is, err := devices{was: plan.Origin{Devices: tt.was}, now: plan.Origin{Devices: tt.now}}.find("eth0")
		got := is.Name
		if err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// taken shows another device under the name of eth0, which is gone: all that is
// read and written under that name is eth1's.
func taken(r *rig) *Applier {
	n := renamed{from: "eth1", show: "eth0"}
	a := r.process(nil)
	a.Writer = n.writer(a.Writer)
	r.view = func(v knob.View) knob.View { return n.view(renamed{from: "eth0"}.view(v)) }
	r.origin = func(o plan.Origin) plan.Origin { return n.origin(renamed{from: "eth0"}.origin(o)) }
	return a
}

// A device that took the name of one that is gone has nothing to do with the
// journal: nothing is written to it, and no word of the journals is about it.
func TestNameTaken(t *testing.T) {
	t.Parallel()
	r := newRig(t, hosttest.Spec{Driver: "ice", NICs: 2})
	for _, ref := range []string{"eth1/ring.rx", "eth1/rx-1/rps.cpus", "eth1/gro_flush_timeout"} {
		r.write(ref, map[string]string{"eth1/ring.rx": "1024", "eth1/rx-1/rps.cpus": "1", "eth1/gro_flush_timeout": "9000"}[ref])
	}
	p := r.plan("eth0/ring.rx", "1024", "eth0/rx-1/rps.cpus", "1", "eth0/gro_flush_timeout", "9000", "net.core.dev_weight", "32")
	if _, err := r.process(nil).Apply(background, p, anything); err != nil {
		t.Fatal(err)
	}
	a := taken(r)
	all, err := a.Status()
	if err != nil || len(all) != 1 {
		t.Fatalf("%+v, %v", all, err)
	}
	const reason = "eth0 is another device by now"
	for _, d := range all[0].Drift {
		if gone := d.Ref.Dev == "eth0"; d.Drifted != gone || strings.HasPrefix(d.Reason, reason) != gone || gone && d.Present != "" {
			t.Errorf("status: %+v", d)
		}
	}
	words, err := a.Words()
	if err != nil || len(words) != 1 {
		t.Errorf("words %+v, %v", words, err)
	}
	var wrote []string
	r.gate = func(what string, do func() error) error { wrote = append(wrote, what); return do() }
	result, err := a.Rollback(background, "")
	if err != nil || result.State != Dirty || len(result.Restored) != 4 {
		t.Errorf("%s, %v, %+v", result.State, err, result.Restored)
	}
	for _, one := range result.Restored {
		want := FateRestored
		if one.Ref.Dev == "eth0" {
			want = FateGone
		}
		if one.Fate != want || want == FateGone && !strings.HasPrefix(one.Reason, reason) {
			t.Errorf("%+v", one)
		}
	}
	if len(wrote) != 1 {
		t.Errorf("wrote %q", wrote)
	}
}

// Under its new name a device has not drifted.
func TestStatusOfRenamed(t *testing.T) {
	t.Parallel()
	r := newRig(t, small)
	if _, err := r.process(nil).Apply(background, r.plan("eth0/rx-1/rps.cpus", "1", "eth0/gro_flush_timeout", "9000"), anything); err != nil {
		t.Fatal(err)
	}
	n := renamed{from: "eth0", show: "lan0"}
	r.view, r.origin = n.view, n.origin
	all, err := r.process(nil).Status()
	if err != nil || len(all) != 1 || len(all[0].Drift) != 2 {
		t.Fatalf("%+v, %v", all, err)
	}
	for _, d := range all[0].Drift {
		if d.Drifted || d.Ref.Dev != "lan0" || d.Present != d.Wrote {
			t.Errorf("%+v", d)
		}
	}
}
