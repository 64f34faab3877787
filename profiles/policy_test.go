package profiles

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/knob"
)

func TestEmbedded(t *testing.T) {
	want := []string{"balanced", "forwarding", "latency", "minimal", "throughput", "virtual-guest"}
	if diff := cmp.Diff(want, Names()); diff != "" {
		t.Fatalf("names (-want +got)\n%s", diff)
	}
	for _, name := range Names() {
		p, err := ByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if p.Name != name || len(p.Description) < 80 {
			t.Errorf("%s: name %q, description %q", name, p.Name, p.Description)
		}
		if wantBase := "balanced"; name != wantBase && p.Extends != wantBase {
			t.Errorf("%s extends %q", name, p.Extends)
		}
		for threshold := range p.Thresholds {
			if len(p.Reasons[threshold]) < 40 {
				t.Errorf("%s: the reason for %s is %q", name, threshold, p.Reasons[threshold])
			}
		}
		if len(p.Reasons) != len(p.Thresholds) {
			t.Errorf("%s: %d reasons for %d thresholds", name, len(p.Reasons), len(p.Thresholds))
		}
	}
	if p := Balanced(); p.Thresholds != nil || p.MaxDisruption != nil || p.Latency || p.Forwarding || p.HarmOnly || p.Bans != nil {
		t.Errorf("balanced is not neutral: %+v", p)
	}
}

// What sets a policy apart is there.
func TestEmbeddedFlags(t *testing.T) {
	type flags struct{ latency, forwarding, harmOnly, gentle bool }
	for name, want := range map[string]flags{
		"balanced": {}, "throughput": {}, "virtual-guest": {}, "latency": {latency: true}, "forwarding": {forwarding: true},
		"minimal": {harmOnly: true, gentle: true},
	} {
		p, err := ByName(name)
		if err != nil {
			t.Fatal(err)
		}
		gentle := p.MaxDisruption != nil && *p.MaxDisruption == knob.DisruptsNothing
		if got := (flags{p.Latency, p.Forwarding, p.HarmOnly, gentle}); got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
}

// A caller that changes its policy changes nobody else's.
func TestByNameCopies(t *testing.T) {
	p, err := ByName("minimal")
	if err != nil {
		t.Fatal(err)
	}
	*p.MaxDisruption = knob.DisruptsLink
	l, _ := ByName("latency")
	l.Thresholds["backlog-ceiling"] = 7
	again, _ := ByName("minimal")
	late, _ := ByName("latency")
	if *again.MaxDisruption != knob.DisruptsNothing || late.Thresholds["backlog-ceiling"] != 1000 {
		t.Error("a policy is shared between its callers")
	}
}

func TestByNameUnknown(t *testing.T) {
	for name, want := range map[string]string{
		"latancy": `there is no policy "latancy"; did you mean latency?`,
		"":        `there is no policy ""; there is balanced, forwarding, latency, minimal, throughput, virtual-guest`,
		"gaming":  `there is no policy "gaming"; there is balanced, forwarding, latency, minimal, throughput, virtual-guest`,
	} {
		if _, err := ByName(name); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", name, err, want)
		}
	}
}

func TestObjection(t *testing.T) {
	p := site(t)
	for _, test := range []struct {
		ref, value, driver string
		disruption         knob.Disruption
		want               string // "" = allowed
	}{
		{"net.core.netdev_budget", "600", "", knob.DisruptsNothing, ""},
		{"net.core.rps_sock_flow_entries", "32768", "", knob.DisruptsNothing, "the policy forbids changing it: no socket reads here"},
		{"eth1/ring.rx", "512", "igb", knob.DisruptsNothing, "the policy forbids changing it: the storage team owns eth1"},
		{"eth1/rx-3/irq.affinity", "1", "igb", knob.DisruptsNothing, "the policy forbids changing it: the storage team owns eth1"},
		{"eth10/rx-3/irq.affinity", "1", "igb", knob.DisruptsNothing, ""},
		{"eth5/ring.rx", "512", "i40e", knob.DisruptsPackets, "the policy forbids changing it: the driver resets the link"},
		{"eth5/ring.rx", "512", "", knob.DisruptsPackets, ""},
		{"eth0/ring.rx", "2048", "igb", knob.DisruptsPackets, ""},
		{"eth0/ring.rx", "2049", "igb", knob.DisruptsPackets, "the policy caps it at 2048"},
		{"eth0/ring.rx", "512", "igb", knob.DisruptsLink, "it disturbs traffic (link), and the policy allows packets"},
		{"eth0/ring.tx", "8192", "igb", knob.DisruptsNothing, ""},
		{"eth21/ring.tx", "8192", "mlx5_core", knob.DisruptsNothing, "the policy caps it at 1024"},
		{"eth0/channels.combined", "9", "igb", knob.DisruptsNothing, "the policy caps it at 8"},
		{"eth21/channels.combined", "9", "mlx5_core", knob.DisruptsNothing, ""},
		{"eth21/channels.combined", "17", "mlx5_core", knob.DisruptsNothing, "the policy caps it at 16"},
		{"eth21/channels.combined", "9", "mlx4_en", knob.DisruptsNothing, "the policy caps it at 8"},
		{"eth0/rx-0/irq.affinity", "1-3", "igb", knob.DisruptsNothing, ""},
		{"eth0/rx-0/irq.affinity", "3-5", "igb", knob.DisruptsNothing, "the policy keeps network work off CPU 4"},
		{"eth0/rx-0/rps.cpus", "7-9", "igb", knob.DisruptsPackets, "the policy gives network work CPU 0-7, not 8-9"},
		{"eth0/rx-0/rps.cpus", "", "igb", knob.DisruptsPackets, ""},
		{"eth0/tx-0/xps.cpus", "0-15", "igb", knob.DisruptsNothing, ""},
	} {
		ref, err := knob.ParseRef(test.ref)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Objection(ref, test.value, test.driver, test.disruption); got != test.want {
			t.Errorf("%s = %s on %q (%s): %q, want %q", test.ref, test.value, test.driver, test.disruption, got, test.want)
		}
	}
	for _, k := range knob.All() {
		ref := knob.Ref{Kind: k.Name, Dev: "eth0", Queue: 0}
		if got := (Policy{}).Objection(ref, "1", "igb", knob.DisruptsLink); got != "" {
			t.Errorf("the zero policy objects to %s: %s", ref, got)
		}
	}
}

func TestRoles(t *testing.T) {
	all := cpuset.Range(0, 15)
	for _, test := range []struct {
		policy Policy
		want   cpuset.Set
	}{
		{Policy{}, all},
		{Policy{NetworkCPUs: cpuset.Range(4, 20)}, cpuset.Range(4, 15)},
		{Policy{ForbiddenCPUs: cpuset.Range(0, 13)}, cpuset.Range(14, 15)},
		{Policy{NetworkCPUs: cpuset.Range(0, 7), ForbiddenCPUs: cpuset.Of(0, 4)}, cpuset.Of(1, 2, 3, 5, 6, 7)},
	} {
		if got := test.policy.Roles(all); got != test.want {
			t.Errorf("network %s, forbidden %s: %s, want %s", test.policy.NetworkCPUs, test.policy.ForbiddenCPUs, got, test.want)
		}
	}
}

func TestStanding(t *testing.T) {
	p := site(t)
	p.Acknowledgements = append(p.Acknowledgements,
		Acknowledgement{Finding: "gro-off", Subject: "eth7", Reason: "older", Until: day("2029-01-01")},
		Acknowledgement{Finding: "gro-off", Subject: "eth7", Reason: "newer", Until: day("2032-01-01")})
	newYork := time.FixedZone("EST", -5*3600)
	for _, test := range []struct {
		finding, subject string
		now              time.Time
		want             Standing
		reason           string
	}{
		{"irq-stacked", "CPU 0", day("2030-01-01"), Acknowledged, "the second NIC arrives in spring"},
		{"irq-stacked", "CPU 0", day("2031-03-31").Add(24*time.Hour - 1), Acknowledged, "the second NIC arrives in spring"},
		{"irq-stacked", "CPU 0", day("2031-04-01"), Expired, "the second NIC arrives in spring"},
		{"irq-stacked", "CPU 0", time.Date(2031, 3, 31, 20, 0, 0, 0, newYork), Expired, "the second NIC arrives in spring"},
		{"irq-stacked", "CPU 01", day("2030-01-01"), Open, ""},
		{"rx-ring-overrun", "CPU 0", day("2030-01-01"), Open, ""},
		{"gro-off", "eth3", day("2030-01-01"), Acknowledged, "the intrusion detection wants packets as they were sent"},
		{"gro-off", "eth7", day("2031-06-01"), Acknowledged, "newer"},
		{"gro-off", "eth7", day("2033-01-01"), Expired, "newer"},
		{"gro-off", "bond0", day("2030-01-01"), Open, ""},
	} {
		got, a := p.Standing(test.finding, test.subject, test.now)
		if got != test.want || a.Reason != test.reason {
			t.Errorf("%s on %s at %s: %s %q, want %s %q", test.finding, test.subject, test.now, got, a.Reason, test.want, test.reason)
		}
	}
	var expired []string
	for _, a := range p.ExpiredAcknowledgements(day("2031-02-01")) {
		expired = append(expired, a.Reason)
	}
	if diff := cmp.Diff([]string{"the intrusion detection wants packets as they were sent", "older"}, expired); diff != "" {
		t.Errorf("expired (-want +got)\n%s", diff)
	}
}

func TestPattern(t *testing.T) {
	for _, test := range []struct {
		pattern string
		yes, no []string
	}{
		{"ring.rx", []string{"eth0/ring.rx"}, []string{"eth0/ring.tx", "net.core.netdev_budget"}},
		{"ring.*", []string{"eth0/ring.rx", "ens5/ring.tx"}, []string{"eth0/channels.rx"}},
		{"*", []string{"net.core.netdev_budget", "eth0/ring.rx", "eth0/rx-3/rps.cpus"}, nil},
		{"net.core.*", []string{"net.core.netdev_budget"}, []string{"eth0/ring.rx"}},
		{"eth*/ring.rx", []string{"eth0/ring.rx", "eth12/ring.rx"}, []string{"ens5/ring.rx", "eth0/ring.tx"}},
		{"eth0/rps.cpus", []string{"eth0/rx-0/rps.cpus", "eth0/rx-12/rps.cpus"}, []string{"eth1/rx-0/rps.cpus"}},
		{"eth0/rx-1/rps.cpus", []string{"eth0/rx-1/rps.cpus"}, []string{"eth0/rx-12/rps.cpus", "eth0/rx-0/rps.cpus"}},
		{"eth?/rx-*/irq.affinity", []string{"eth0/rx-1/irq.affinity"}, []string{"eth0/tx-1/irq.affinity", "eth10/rx-1/irq.affinity"}},
		{"*/*/irq.affinity", []string{"eth0/rx-1/irq.affinity", "eth0/tx-1/irq.affinity"}, []string{"eth0/rx-1/rps.cpus"}},
		{"eth1/*", []string{"eth1/ring.rx", "eth1/rx-0/rps.cpus"}, []string{"eth10/ring.rx", "net.core.netdev_budget"}},
	} {
		p, err := ParsePattern(test.pattern)
		if err != nil {
			t.Errorf("%s: %v", test.pattern, err)
			continue
		}
		for _, text := range slices.Concat(test.yes, test.no) {
			ref, err := knob.ParseRef(text)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := p.Match(ref), slices.Contains(test.yes, text); got != want {
				t.Errorf("%s matches %s: %v, want %v", test.pattern, text, got, want)
			}
		}
	}
}

// Every address that exists is a pattern that matches itself.
func TestPatternOfEveryKind(t *testing.T) {
	for _, k := range knob.All() {
		for _, ref := range []knob.Ref{knob.Global(k.Name), knob.Device("eth0", k.Name), knob.Rx("eth0", 3, k.Name), knob.Tx("eth0", 3, k.Name)} {
			if _, err := knob.ParseRef(ref.String()); err != nil {
				continue
			}
			p, err := ParsePattern(ref.String())
			if err != nil || !p.Match(ref) {
				t.Errorf("%s does not match itself: %v", ref, err)
			}
		}
	}
}

func FuzzMatches(f *testing.F) {
	for _, seed := range [][2]string{{"a*b*c", "axxbyyc"}, {"*", ""}, {"**a", "ba"}, {"?", "é"}, {strings.Repeat("a*", 50), strings.Repeat("a", 200)}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if len(pattern) > 200 || len(text) > 200 {
			return
		}
		if got := matches(pattern, text); got && !strings.ContainsAny(pattern, "*?") && pattern != text {
			t.Errorf("%q matches %q", pattern, text)
		}
		if !matches(text, text) || !matches("*"+text+"*", "x"+text+"y") {
			t.Errorf("%q does not match itself", text)
		}
		if strings.HasPrefix(text, pattern) != matches(pattern+"*", text) && !strings.ContainsAny(pattern, "*?") {
			t.Errorf("%q* against %q", pattern, text)
		}
	})
}

// A device's own entry decides its CPUs and thresholds; others keep the policy's.
func TestDeviceRules(t *testing.T) {
	p := site(t)
	all := cpuset.Range(0, 31)
	for _, test := range []struct {
		dev, driver string
		cpus        cpuset.Set
		loss        float64
	}{
		{"eth0", "ice", cpuset.Of(1, 2, 3, 5, 6, 7), 1e-5},
		{"eth2", "mlx5_core", cpuset.Of(8, 10, 11, 12, 13, 14, 15), 0.001},
		{"eth2", "ice", cpuset.Of(1, 2, 3, 5, 6, 7), 1e-5},
	} {
		if got := p.DeviceRoles(all, test.dev, test.driver); got != test.cpus {
			t.Errorf("%s (%s): CPUs %s, want %s", test.dev, test.driver, got, test.cpus)
		}
		if got := p.DeviceThresholds(test.dev, test.driver)["ring-loss-share"]; got != test.loss {
			t.Errorf("%s (%s): ring-loss-share %v, want %v", test.dev, test.driver, got, test.loss)
		}
		objection := p.Objection(knob.Rx(test.dev, 0, "irq.affinity"), "10", test.driver, knob.DisruptsNothing)
		if (objection == "") != test.cpus.Has(10) {
			t.Errorf("%s (%s) on CPU 10: objection %q", test.dev, test.driver, objection)
		}
	}
	if p.Thresholds["ring-loss-share"] != 1e-5 {
		t.Error("a device's threshold changed the policy's")
	}
}
