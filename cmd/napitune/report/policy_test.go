package report

import (
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/profiles"
)

// sitePolicy has something in every field.
func sitePolicy() Policy {
	packets := knob.DisruptsPackets
	day := func(y int, m time.Month, d int) time.Time { return time.Date(y, m, d, 0, 0, 0, 0, time.UTC) }
	p := profiles.Policy{
		Name: "edge", Extends: "forwarding", Description: "Edge routers of the second site, which share their hosts with a control plane that owns two CPUs.",
		Thresholds: map[string]float64{"ring-loss-share": 1e-5, "few-queues-share": 0.5},
		Reasons:    map[string]string{"ring-loss-share": "UDP feeds that tolerate no loss", "few-queues-share": "half of the cores at least"},
		Latency:    true, Forwarding: true, HarmOnly: true, MaxDisruption: &packets,
		NetworkCPUs: cpuset.Range(0, 7), ForbiddenCPUs: cpuset.Of(0, 4),
		Caps: profiles.Caps{Queues: 8, RxRing: 2048},
		Bans: []profiles.Ban{{Pattern: "eth1/*", Why: "the storage team owns eth1"}},
		Overrides: []profiles.Override{
			{Name: "eth2*", Driver: "mlx5_core", Caps: profiles.Caps{Queues: 16}},
			{Driver: "i40e", Bans: []profiles.Ban{{Pattern: "ring.*", Why: "the driver resets the link"}}},
		},
		Acknowledgements: []profiles.Acknowledgement{
			{Finding: "irq-stacked", Subject: "CPU 0", Reason: "the second NIC arrives in spring", Until: day(2031, 3, 31)},
			{Finding: "gro-off", Subject: "eth*", Reason: "intrusion detection\x1b[2J", Until: day(2026, 1, 1)},
		},
	}
	scales := map[string]Scale{"ring-loss-share": {0.0001, "of received packets"}, "few-queues-share": {0.25, "of the queues the host could use"}}
	return NewPolicy(p, "/etc/napitune/policy.yaml", scales, day(2030, 1, 1))
}

func TestPolicyGoldens(t *testing.T) {
	var list []profiles.Policy
	for _, name := range profiles.Names() {
		p, err := profiles.ByName(name)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	for name, d := range map[string]interface {
		Text(w io.Writer, s Style) error
	}{"policy": sitePolicy(), "policies": NewPolicies(list), "policy-neutral": NewPolicy(list[0], "", nil, time.Time{})} {
		var text, structured bytes.Buffer
		if err := d.Text(&text, Style{Width: 80}); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".txt", text.String())
		if err := JSON(&structured, d); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".json", structured.String())
		if err := d.Text(&failingWriter{after: 1}, Style{}); err == nil && name != "policy-neutral" {
			t.Errorf("%s: a failing writer went unnoticed", name)
		}
	}
}
