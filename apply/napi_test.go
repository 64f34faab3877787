package apply

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/hosttest"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

// netdev shows other NAPIs and queues than the machine has; nil shows its own.
type netdev struct {
	napis  func([]host.NAPI) []host.NAPI
	queues func([]host.Queue) ([]host.Queue, error)
}

func (n *netdev) view(v knob.View) knob.View {
	h := *v.Host
	napis, queues := h.Netdev.NAPIs, h.Netdev.Queues
	h.Netdev.NAPIs = func() ([]host.NAPI, error) {
		list, err := napis()
		if n.napis != nil {
			list = n.napis(list)
		}
		return list, err
	}
	h.Netdev.Queues = func() ([]host.Queue, error) {
		list, err := queues()
		if n.queues != nil && err == nil {
			return n.queues(list)
		}
		return list, err
	}
	v.Host = &h
	return v
}

// Values of single NAPIs that a rollback leaves, or that the host does not take
// back, are named, and nothing is called restored that is not.
func TestNAPIsThatAreNotRestored(t *testing.T) {
	t.Parallel()
	own := host.NAPI{IfIndex: 2, ID: 8194, GROFlushTimeout: 50000, DeferHardIRQs: 7, IRQSuspend: 9}
	unlisted := func([]host.Queue) ([]host.Queue, error) { return nil, errors.New("out of memory") }
	renumbered := func(list []host.NAPI) []host.NAPI {
		out := append([]host.NAPI(nil), list...)
		for i := range out {
			out[i].ID += 1000
		}
		return out
	}
	const name = "NAPI of eth0/rx-1"
	for _, tt := range []struct {
		name   string
		change [2]string
		then   func(r *rig, a *Applier, n *netdev)
		before func(n *netdev) // the apply
		want   Restoration     // fate and parts of the rest
	}{
		{"foreign", [2]string{"eth0/gro_flush_timeout", "20000"}, func(r *rig, _ *Applier, _ *netdev) {
			foreign := own
			foreign.GROFlushTimeout = 77777
			_ = r.m.Writer().SetNAPI(foreign)
		}, nil, Restoration{NAPI: name, Want: "gro_flush_timeout 50000", Present: "gro_flush_timeout 77777", Fate: FateForeign}},
		{"foreign, with another value to restore", [2]string{"eth0/channels.combined", "1"}, func(r *rig, a *Applier, _ *netdev) {
			set := a.Writer.SetChannels
			a.Writer.SetChannels = func(dev string, c host.Channels) error {
				err := set(dev, c)
				_ = r.m.Writer().SetNAPI(host.NAPI{IfIndex: 2, ID: 8194, GROFlushTimeout: 77777})
				return err
			}
		}, nil, Restoration{NAPI: name, Present: "napi_defer_hard_irqs 7, gro_flush_timeout 77777, irq_suspend_timeout 9", Fate: FateForeign}},
		{"does nothing", [2]string{"eth0/channels.combined", "1"}, func(_ *rig, a *Applier, _ *netdev) {
			a.Writer.SetNAPI = func(host.NAPI) error { return nil }
		}, nil, Restoration{NAPI: name, Present: "gro_flush_timeout 0", Fate: FateFailed, Reason: "does not have its old values"}},
		{"refused", [2]string{"eth0/channels.combined", "1"}, func(_ *rig, a *Applier, _ *netdev) {
			a.Writer.SetNAPI = func(host.NAPI) error { return errors.New("no") }
		}, nil, Restoration{NAPI: name, Present: "gro_flush_timeout 0", Fate: FateFailed, Reason: "no"}},
		{"cannot be written", [2]string{"eth0/channels.combined", "1"}, func(_ *rig, a *Applier, _ *netdev) {
			a.Writer.SetNAPI = nil
		}, nil, Restoration{NAPI: name, Fate: FateFailed, Reason: host.ErrUnsupported.Error()}},
		{"queues are not told, the number is the same", [2]string{"eth0/channels.combined", "1"}, func(_ *rig, _ *Applier, n *netdev) {
			n.queues = unlisted
		}, nil, Restoration{NAPI: name, Present: "gro_flush_timeout 50000", Fate: FateRestored}},
		{"queues are not told, numbers changed", [2]string{"eth0/channels.combined", "1"}, func(_ *rig, _ *Applier, n *netdev) {
			n.queues, n.napis = unlisted, renumbered
		}, nil, Restoration{NAPI: name, Fate: FateFailed, Reason: "does not tell which queues"}},
		{"queues were not told, numbers changed", [2]string{"eth0/channels.combined", "1"}, func(_ *rig, _ *Applier, n *netdev) {
			n.queues, n.napis = nil, renumbered
		}, func(n *netdev) { n.queues = unlisted }, Restoration{NAPI: "NAPI 8194 of eth0", Fate: FateGone, Reason: "other numbers by now"}},
		{"no NAPIs", [2]string{"eth0/gro_flush_timeout", "20000"}, func(_ *rig, _ *Applier, n *netdev) {
			n.napis = func([]host.NAPI) []host.NAPI { return nil }
		}, nil, Restoration{NAPI: name, Fate: FateGone, Reason: "shows no NAPIs"}},
		{"all is well", [2]string{"eth0/gro_flush_timeout", "20000"}, func(*rig, *Applier, *netdev) {}, nil,
			Restoration{NAPI: name, Want: "gro_flush_timeout 50000", Present: "gro_flush_timeout 50000", Fate: FateAlready}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, hosttest.Spec{QueuesPerNIC: 2, MaxQueues: 4})
			if err := r.m.Writer().SetNAPI(own); err != nil {
				t.Fatal(err)
			}
			n := &netdev{}
			r.view = n.view
			if tt.before != nil {
				tt.before(n)
			}
			if _, err := r.process(nil).Apply(background, r.plan(tt.change[0], tt.change[1]), anything); err != nil {
				t.Fatal(err)
			}
			a := r.process(nil)
			tt.then(r, a, n)
			result, err := a.Rollback(background, "")
			well := tt.want.Fate == FateRestored || tt.want.Fate == FateAlready
			if (result.State == RolledBack) != well || (result.RollbackExitCode() == ExitDone) != well || (err != nil) != (tt.want.Fate == FateFailed) {
				t.Errorf("%s, %v", result.State, err)
			}
			told := 0
			for _, one := range result.Restored {
				if one.NAPI == "" {
					continue
				}
				told++
				if one.NAPI != tt.want.NAPI || one.Fate != tt.want.Fate || !strings.Contains(one.Want, tt.want.Want) ||
					!strings.Contains(one.Present, tt.want.Present) || !strings.Contains(one.Reason, tt.want.Reason) {
					t.Errorf("%+v", one)
				}
			}
			if told != 1 {
				t.Errorf("%d words on NAPIs: %+v", told, result.Restored)
			}
			if err != nil && !strings.Contains(err.Error(), tt.want.NAPI) {
				t.Errorf("%v does not name it", err)
			}
		})
	}
}

// The NAPI of a queue that the transaction made goes with it, whatever somebody
// had set there meanwhile.
func TestNAPIOfAMadeQueue(t *testing.T) {
	t.Parallel()
	r := newRig(t, hosttest.Spec{QueuesPerNIC: 2, MaxQueues: 4})
	before := r.m.Dump()
	o := anything
	o.Replan = func(context.Context) (plan.Plan, error) {
		if err := r.m.Writer().SetNAPI(host.NAPI{IfIndex: 2, ID: 8196, GROFlushTimeout: 50000}); err != nil {
			t.Error(err)
		}
		return r.plan("eth0/gro_flush_timeout", "20000"), nil
	}
	p := r.plan("eth0/channels.combined", "4")
	p.Complete = false
	if _, err := r.process(nil).Apply(background, p, o); err != nil {
		t.Fatal(err)
	}
	if result, err := r.process(nil).Rollback(background, ""); err != nil || result.State != RolledBack {
		t.Errorf("%s, %v, %+v", result.State, err, result.Restored)
	}
	if diff := cmp.Diff(before, r.m.Dump()); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}
