package report

import (
	"bytes"
	"strings"
	"testing"

	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

// exported is a plan with a setting of every sort: two devices with an address,
// one without, one whose name cannot be part of a file name.
func exported() Advice {
	change := func(ref knob.Ref, before, after, disruption string) plan.Change {
		return plan.Change{Ref: ref, Before: before, After: after, Disruption: disruption, Why: "a reason", Findings: []string{"x"}}
	}
	pl := plan.Plan{
		Profile: "balanced",
		Origin: &plan.Origin{Devices: []plan.OriginDevice{
			{Name: "ens5", Driver: "ena", Bus: "0000:00:05.0", Queues: 2}, {Name: "eth1", Driver: "mlx5_core", Bus: "0000:82:00.1", Queues: 2},
			{Name: "eth2", Driver: "hv_netvsc", Queues: 2},
		}},
		Changes: []plan.Change{
			change(knob.Device("eth1", "channels.combined"), "1", "4", "link"),
			change(knob.Device("eth1", "channels.rx"), "1", "0", "link"),
			change(knob.Device("ens5", "ring.rx"), "512", "1024", "link"),
			change(knob.Device("ens5", "rss.table"), "0*128", "0-1*64", "packets"),
			change(knob.Device("eth1", "feature.rx-lro"), "on", "off", "link"),
			change(knob.Device("eth1", "feature.rx-gro-list"), "off", "on", "none"),
			change(knob.Device("eth2", "feature.rx-gro"), "off", "on", "none"),
			change(knob.Device("wan 0;x", "feature.rx-gro"), "off", "on", "none"),
			change(knob.Device("eth1", "coalesce.adaptive-rx"), "on", "off", "packets"),
			change(knob.Device("eth1", "coalesce.rx-usecs"), "8", "50", "packets"),
			change(knob.Device("eth1", "coalesce.rx-frames"), "0", "64", "packets"),
			change(knob.Global("net.core.flow_limit_table_len"), "4096", "8192", "none"),
			change(knob.Global("net.core.flow_limit_cpu_bitmap"), "", "0-1,33", "none"),
			change(knob.Global("net.core.netdev_budget"), "300", "600", "none"),
			change(knob.Device("ens5", "gro_flush_timeout"), "0", "20000", "none"),
			change(knob.Rx("ens5", 0, "rps.cpus"), "", "2-3", "packets"),
			change(knob.Rx("eth2", 0, "rps.cpus"), "", "2-3", "packets"),
			change(knob.Rx("eth2", 1, "rps.cpus"), "", "4-5", "packets"),
			change(knob.Rx("eth1", 0, "irq.affinity"), "0", "2", "none"),
			change(knob.Rx("eth1", 1, "irq.affinity"), "0", "2", "none"),
		},
		Kept:     []plan.Kept{{Ref: knob.Rx("ens5", 1, "rps.cpus"), Value: "2-3"}},
		Blocked:  []plan.Blocked{{Ref: knob.Device("ens5", "ring.tx"), Want: "4096", Reason: "4096 is outside 256 to 1024"}},
		Deferred: []plan.Deferred{{Ref: knob.Rx("eth1", 0, "rps.cpus"), Reason: "later"}},
	}
	return Advice{
		Host: Host{Release: "6.12.8", Devices: []HostDevice{{Name: "ens5", Queues: 2}, {Name: "eth1", Queues: 2}, {Name: "eth2", Queues: 2}}},
		Plan: pl,
	}
}

func TestSysctlGolden(t *testing.T) {
	for name, a := range map[string]Advice{"export": exported(), "stacked": stackedAdvice(), "healthy": healthy()} {
		var out bytes.Buffer
		if err := Sysctl(&out, a); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".sysctl", out.String())
	}
}

func TestLinkGolden(t *testing.T) {
	for name, a := range map[string]Advice{"export": exported(), "stacked": stackedAdvice(), "healthy": healthy()} {
		var out bytes.Buffer
		if err := Link(&out, a); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".link", out.String())
	}
}

func TestLinkFiles(t *testing.T) {
	files := LinkFiles(exported())
	want := []string{"/etc/systemd/network/10-napitune-eth1.link", "/etc/systemd/network/10-napitune-ens5.link", "/etc/systemd/network/10-napitune-eth2.link"}
	for i, f := range files {
		if i >= len(want) || f.Path != want[i] {
			t.Errorf("file %d is %s", i, f.Path)
		}
		if strings.Count(f.Text, "[Match]\n") != 1 || strings.Count(f.Text, "[Link]\n") != 1 {
			t.Errorf("%s has not one section of each kind:\n%s", f.Path, f.Text)
		}
	}
	if len(files) != len(want) {
		t.Errorf("%d files, want %d", len(files), len(want))
	}
}

// Every change of a plan is in the output, as a setting or as a comment.
func TestNothingIsLostOnTheWay(t *testing.T) {
	a := exported()
	var sysctl, link bytes.Buffer
	if err := Sysctl(&sysctl, a); err != nil {
		t.Fatal(err)
	}
	if err := Link(&link, a); err != nil {
		t.Fatal(err)
	}
	for form, text := range map[string]string{"sysctl.d": sysctl.String(), "link": link.String()} {
		for _, c := range a.Plan.Changes {
			name := c.Ref.String()
			if strings.HasPrefix(name, "eth1/rx-") {
				name = "eth1/rx-[0-1]/irq.affinity" // folded
			}
			if !strings.Contains(text, "# "+name+": ") && !strings.Contains(text, "#     "+name+": ") {
				t.Errorf("%s does not mention %s", form, name)
			}
		}
	}
}

// The keys belong to settings that exist, and take or refuse values as systemd does.
func TestLinkKeys(t *testing.T) {
	for kind, key := range linkKeys {
		k, ok := knob.Lookup(kind)
		if !ok || k.Scope != knob.ScopeDevice {
			t.Errorf("%s is no setting of a device", kind)
			continue
		}
		value := map[string]string{"integer": "7", "switch": "on"}[k.Codec.Name]
		if _, ok := key.form(value); !ok {
			t.Errorf("%s= refuses %q", key.name, value)
		}
		if text, ok := key.form("x\nName=evil"); ok {
			t.Errorf("%s= takes %q", key.name, text)
		}
	}
	for _, test := range []struct {
		form  func(string) (string, bool)
		value string
		want  string // "" = refused
	}{
		{positive, "1", "1"}, {positive, "0", ""}, {positive, "-1", ""}, {positive, "4294967296", ""},
		{natural, "0", "0"}, {natural, "", ""}, {microseconds, "50", "50us"}, {microseconds, "0", "0us"}, {microseconds, "5s", ""},
		{yesNo, "on", "yes"}, {yesNo, "off", "no"}, {yesNo, "yes", ""},
	} {
		got, ok := test.form(test.value)
		if ok != (test.want != "") || ok && got != test.want {
			t.Errorf("%q became %q, %v, want %q", test.value, got, ok, test.want)
		}
	}
}

// Texts from a host or a plan file stay in comments, whatever they contain.
func TestExportsAreNotInjectable(t *testing.T) {
	evil := "x\n[Link]\nName=evil\nkernel.panic = 1\\\n"
	a := Advice{
		Host: Host{Release: evil, Devices: []HostDevice{{Name: evil}, {Name: "eth0", Queues: 1}}},
		Plan: plan.Plan{
			Profile: evil,
			Origin:  &plan.Origin{Devices: []plan.OriginDevice{{Name: "eth0", Driver: evil, Bus: evil}}},
			Changes: []plan.Change{
				{Ref: knob.Device(evil, "ring.rx"), Before: evil, After: "512", Why: evil, Findings: []string{evil}, Disruption: evil},
				{Ref: knob.Device("eth0", "ring.rx"), Before: evil, After: "512", Why: evil, Findings: []string{evil}, Disruption: evil},
				{Ref: knob.Device("eth0", "ring.tx"), After: evil}, {Ref: knob.Device("eth0", "feature.rx-gro"), After: evil},
				{Ref: knob.Rx("eth0", 0, "rps.cpus"), After: evil},
				{Ref: knob.Global("net.core.netdev_budget"), After: evil}, {Ref: knob.Global("net.core.netdev_max_backlog"), After: "7", Why: evil},
				{Ref: knob.Global(evil), After: "1"}, {Ref: knob.Global("net.core.flow_limit_cpu_bitmap"), After: evil},
			},
			Blocked: []plan.Blocked{{Ref: knob.Global(evil), Want: evil, Reason: evil}}, Deferred: []plan.Deferred{{Ref: knob.Device(evil, evil)}},
		},
	}
	var sysctl, link bytes.Buffer
	if err := Sysctl(&sysctl, a); err != nil {
		t.Fatal(err)
	}
	if err := Link(&link, a); err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{
		"net.core.netdev_max_backlog = 7": true, "[Match]": true, "[Link]": true, "OriginalName=eth0": true, "RxBufferSize=512": true,
		"NamePolicy=keep kernel database onboard slot path": true, "AlternativeNamesPolicy=database onboard slot path": true, "MACAddressPolicy=persistent": true,
	}
	for line := range strings.SplitSeq(sysctl.String()+link.String(), "\n") {
		if line != "" && line[0] != '#' && !allowed[line] {
			t.Errorf("the line %q came through", line)
		}
	}
	if n := strings.Count(link.String(), "\n[Link]\n"); n != 1 {
		t.Errorf("%d sections [Link]", n)
	}
}

func TestExportWriteErrors(t *testing.T) {
	for after := range 4 {
		if Sysctl(&failingWriter{after: after}, exported()) == nil || Link(&failingWriter{after: after}, exported()) == nil {
			t.Errorf("a writer that fails after %d lines went unnoticed", after)
		}
	}
}
