package profiles

import (
	"bytes"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/knob"
)

// vocabulary is a part of what the rules have.
func vocabulary() Vocabulary {
	return Vocabulary{
		Findings: []string{"gro-off", "irq-stacked", "rx-ring-overrun"},
		Thresholds: map[string]string{
			"hot-softirq-share": "of a CPU", "ring-loss-share": "of received packets", "rss-skew-factor": "times the mean",
		},
	}
}

var sets = cmp.Comparer(func(a, b cpuset.Set) bool { return a == b })

func day(text string) time.Time {
	t, err := time.Parse(time.DateOnly, text)
	if err != nil {
		panic(err)
	}
	return t
}

func site(t testing.TB) Policy {
	t.Helper()
	data, err := os.ReadFile("testdata/site.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p, err := Parse("testdata/site.yaml", data, vocabulary())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestParse(t *testing.T) {
	packets := knob.DisruptsPackets
	forwarding, err := ByName("forwarding")
	if err != nil {
		t.Fatal(err)
	}
	want := Policy{
		Name:        "edge",
		Description: "Edge routers of the second site: the storage team owns eth1, and CPU 0 belongs to the control plane.",
		Extends:     "forwarding",
		Thresholds:  map[string]float64{"hot-softirq-share": 0.8, "ring-loss-share": 1e-5},
		Reasons: map[string]string{
			"hot-softirq-share": forwarding.Reasons["hot-softirq-share"], "ring-loss-share": "UDP feeds that tolerate no loss",
		},
		NetworkCPUs: cpuset.Range(0, 7), ForbiddenCPUs: cpuset.Of(0, 4),
		Forwarding:    true,
		MaxDisruption: &packets,
		Forbidden:     []string{"net.core.rps_sock_flow_entries"},
		Bans:          []Ban{{"net.core.rps_sock_flow_entries", "no socket reads here"}, {"eth1/*", "the storage team owns eth1"}},
		Caps:          Caps{Queues: 8, RxRing: 2048},
		Overrides: []Override{
			{Name: "eth2*", Driver: "mlx5_core", Caps: Caps{Queues: 16, TxRing: 1024},
				NetworkCPUs: cpuset.Range(8, 15), ForbiddenCPUs: cpuset.Of(9),
				Thresholds: map[string]float64{"ring-loss-share": 0.001}, Reasons: map[string]string{"ring-loss-share": "bulk copies that send again"}},
			{Driver: "i40e", Bans: []Ban{{"ring.*", "the driver resets the link"}}},
		},
		Acknowledgements: []Acknowledgement{
			{"irq-stacked", "CPU 0", "the second NIC arrives in spring", day("2031-03-31"), 36},
			{"gro-off", "eth*", "the intrusion detection wants packets as they were sent", day("2030-12-31"), 40},
		},
		Lists: []CPUList{
			{"testdata/site.yaml", 9, "cpus.network", cpuset.Range(0, 7)}, {"testdata/site.yaml", 10, "cpus.forbidden", cpuset.Of(0, 4)},
			{"testdata/site.yaml", 26, "devices.cpus.network", cpuset.Range(8, 15)}, {"testdata/site.yaml", 26, "devices.cpus.forbidden", cpuset.Of(9)},
		},
	}
	if diff := cmp.Diff(want, site(t), sets); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestParseDefaults(t *testing.T) {
	p, err := Parse("/etc/napitune/policy.yaml", []byte("latency: true\n"), vocabulary())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Policy{Name: "policy", Extends: "balanced", Latency: true}, p, sets); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	// A later key overrides what was extended, whatever the order.
	p, err = Parse("p.yaml", []byte("latency: false\nmax-disruption: link\nextends: minimal\nharm-only: false\n"), vocabulary())
	if err != nil {
		t.Fatal(err)
	}
	if p.Latency || p.HarmOnly || *p.MaxDisruption != knob.DisruptsLink || p.Extends != "minimal" {
		t.Errorf("the file did not override minimal: %+v", p)
	}
}

// Every mistake is named with its line, the value, and the nearest right name.
func TestParseErrors(t *testing.T) {
	for _, test := range []struct{ name, file, want string }{
		{"empty", "", `f.yaml:1:1: the file is empty`},
		{"comments only", "# nothing\n\n", `f.yaml:1:1: the file is empty`},
		{"not YAML", "a: [1,\n", `f.yaml:1:4: not valid YAML: sequence end token ']' not found`},
		{"tab", "cpus:\n\tnetwork: 1\n", `f.yaml:2:1: not valid YAML: found character '\t' that cannot start any token`},
		{"open quote", "name: x\ndescription: 'x\n", `f.yaml:2:14: not valid YAML: could not find end character of single-quoted text`},
		{"not UTF-8", "name: x\ndescription: \xff\n", `f.yaml:2:1: the line is not UTF-8 text`},
		{"NUL", "name: x\ndescription: a\x00\n", `f.yaml:2:15: the line holds a NUL byte`},
		{"long line", "name: x\ndescription: " + strings.Repeat("x", 5000) + "\n", `f.yaml:2:1: the line has 5014 bytes, more than 4096`},
		{"brackets", "name: x\n" + strings.Repeat(strings.Repeat("[", 500)+"\n", 3), `f.yaml:4:1: more than 1000 brackets`},
		{"large", strings.Repeat("# 3456\n", 10000), `f.yaml:1:1: the file has 70000 bytes, a policy at most 65536`},
		{"scalar", "balanced\n", `f.yaml:1:1: the policy is "balanced"; a group of keys is needed`},
		{"two documents", "name: a\n---\nname: b\n", `f.yaml:3:1: a policy file holds one document, and here begins a second part`},
		{"directive", "%YAML 1.2\n---\nname: a\n", `f.yaml:3:1: a policy file holds one document, and here begins a second part`},
		{"unknown key", "name: x\n\ntreshold:\n  a: 1\n", `f.yaml:3:1: unknown key "treshold" in the policy; did you mean thresholds?`},
		{"unknown key, none near", "xyzzy: 1\n", `f.yaml:1:1: unknown key "xyzzy" in the policy; there is acknowledge, caps, cpus, description, devices, extends, forbid, forwarding, harm-only, latency, max-disruption, name, thresholds`},
		{"key twice", "latency: true\nname: x\nlatency: false\n", `f.yaml:3:1: key "latency" is given twice, first in line 1`},
		{"key twice inside", "caps:\n  queues: 1\n  queues: 2\n", `f.yaml:3:3: key "queues" is given twice, first in line 2`},
		{"number as key", "1: 2\n", `f.yaml:1:1: a key is a word, not 1`},
		{"merge key", "<<: {name: x}\n", `f.yaml:1:1: a key is a word, not an anchor or alias, which a policy does not have`},
		{"anchor", "name: &x y\n", `f.yaml:1:7: name is an anchor or alias, which a policy does not have; text is needed`},
		{"tag", "name: !!str y\n", `f.yaml:1:7: name is a tag, which a policy does not have; text is needed`},
		{"no value", "name:\n", `f.yaml:1:7: name is empty; text is needed`},
		{"empty text", "name: ''\n", `f.yaml:1:7: name is empty`},
		{"number as text", "name: 5\n", `f.yaml:1:7: name is 5; text is needed`},
		{"name with a slash", "name: a/b\n", `f.yaml:1:7: name "a/b": a name has no slash, no blank and does not end in .yaml`},
		{"name taken", "extends: minimal\nname: minimal\n", `f.yaml:2:7: the name "minimal" is that of a policy that comes with napitune; give this one another with the key name`},
		{"yes", "latency: yes\n", `f.yaml:1:10: latency is "yes"; true or false is needed`},
		{"quoted true", "latency: \"true\"\n", `f.yaml:1:10: latency is "true"; true or false is needed`},
		{"extends nothing", "name: x\nextends: balanecd\n", `f.yaml:2:10: extends: there is no policy "balanecd"; did you mean balanced?`},
		{"extends a list", "extends: [balanced]\n", `f.yaml:1:10: extends is a list; text is needed`},
		{"disruption", "max-disruption: some\n", `f.yaml:1:17: max-disruption is "some"; it is none, packets or link`},
		{"unknown threshold", "thresholds:\n  ring-los-share:\n    value: 1\n", `f.yaml:2:3: there is no threshold "ring-los-share"; did you mean ring-loss-share?`},
		{"threshold without why", "thresholds:\n  ring-loss-share:\n    value: 1\n", `f.yaml:2:3: threshold ring-loss-share has no why: say for what reason it differs`},
		{"threshold without value", "thresholds:\n  ring-loss-share: {why: x}\n", `f.yaml:2:3: threshold ring-loss-share has no value`},
		{"threshold as number", "thresholds:\n  ring-loss-share: 0.1\n", `f.yaml:2:20: threshold ring-loss-share is 0.1; a group of keys is needed`},
		{"percent", "thresholds:\n  ring-loss-share: {value: 50, why: x}\n", `f.yaml:2:28: threshold ring-loss-share is a share of received packets: 50 is more than 1`},
		{"percent sign", "thresholds:\n  ring-loss-share: {value: 5%, why: x}\n", `f.yaml:2:28: ring-loss-share is "5%"; a number from 0 up is needed`},
		{"negative", "thresholds:\n  ring-loss-share: {value: -1, why: x}\n", `f.yaml:2:28: ring-loss-share is "-1"; a number from 0 up is needed`},
		{"infinite", "thresholds:\n  ring-loss-share: {value: .inf, why: x}\n", `f.yaml:2:28: ring-loss-share is .inf; a number without quotes is needed`},
		{"overflow", "thresholds:\n  ring-loss-share: {value: 1e999, why: x}\n", `f.yaml:2:28: ring-loss-share is "1e999"; a number from 0 up is needed`},
		{"quoted number", "thresholds:\n  ring-loss-share: {value: '1', why: x}\n", `f.yaml:2:28: ring-loss-share is "1"; a number without quotes is needed`},
		{"CPU list", "cpus:\n  network: 0-3,x\n", `f.yaml:2:12: cpus.network: CPU list "0-3,x": "x" is not a CPU number`},
		{"CPU list backwards", "cpus:\n  forbidden: 5-1\n", `f.yaml:2:14: cpus.forbidden: CPU list "5-1": range "5-1" runs backwards`},
		{"CPU list as list", "cpus:\n  network: [0, 1]\n", `f.yaml:2:12: cpus.network is a list; a CPU list such as 0-3,8 is needed`},
		{"no CPU", "cpus:\n  network: ','\n", `f.yaml:2:12: cpus.network: "," names no CPU`},
		{"no CPU left", "cpus:\n  network: 0-1\n  forbidden: 0-3\n", `f.yaml:2:3: all network CPUs (0-1) are forbidden ones (0-3)`},
		{"cap", "caps: {queues: 0}\n", `f.yaml:1:16: caps.queues is "0"; a whole number from 1 to 65535 is needed`},
		{"cap in words", "caps: {rx-ring: many}\n", `f.yaml:1:17: caps.rx-ring is "many"; a whole number from 1 to 1048576 is needed`},
		{"cap of nothing", "caps: {rings: 1}\n", `f.yaml:1:8: unknown key "rings" in caps; there is queues, rx-ring, tx-ring`},
		{"forbid as text", "forbid: ring.rx\n", `f.yaml:1:9: forbid is "ring.rx"; a list is needed, each entry behind a dash`},
		{"forbid texts", "forbid:\n  - ring.rx\n", `f.yaml:2:5: an entry of forbid is "ring.rx"; a group of keys is needed`},
		{"forbid nothing", "forbid:\n  - why: x\n", `f.yaml:2:5: the entry of forbid names no setting`},
		{"forbid without why", "forbid:\n  - setting: ring.rx\n", `f.yaml:2:5: the entry of forbid for ring.rx has no why`},
		{"forbid unknown", "forbid:\n  - setting: rings.rx\n    why: x\n", `f.yaml:2:14: there is no setting "rings.rx"; did you mean ring.rx?`},
		{"forbid unknown on a device", "forbid:\n  - setting: eth*/ring.rxx\n    why: x\n", `f.yaml:2:14: there is no setting "ring.rxx"; did you mean ring.rx?`},
		{"forbid at the wrong place", "forbid:\n  - setting: eth0/net.core.netdev_budget\n    why: x\n", `f.yaml:2:14: no setting has an address of the form "eth0/net.core.netdev_budget": net.core.netdev_budget is a setting of the host`},
		{"forbid on the wrong side", "forbid:\n  - setting: eth0/tx-*/rps.cpus\n    why: x\n", `f.yaml:2:14: no setting has an address of the form "eth0/tx-*/rps.cpus": rps.cpus is a setting of a receive queue`},
		{"forbid on no queue", "forbid:\n  - setting: eth0/q1/rps.cpus\n    why: x\n", `f.yaml:2:14: setting "eth0/q1/rps.cpus": "q1" is not a queue (rx-N, tx-N, rx-*, tx-* or *)`},
		{"forbid with an empty part", "forbid:\n  - setting: eth0//ring.rx\n    why: x\n", `f.yaml:2:14: setting "eth0//ring.rx" has an empty part`},
		{"forbid with too many parts", "forbid:\n  - setting: a/rx-0/b/c\n    why: x\n", `f.yaml:2:14: setting "a/rx-0/b/c" has more parts than DEVICE/QUEUE/NAME`},
		{"device without match", "devices:\n  - caps: {queues: 1}\n", `f.yaml:2:5: the entry of devices names neither a device nor a driver`},
		{"device without rule", "devices:\n  - name: eth0\n", `f.yaml:2:5: the entry of devices sets nothing: caps, cpus, forbid or thresholds is needed`},
		{"device threshold", "devices:\n  - name: eth0\n    thresholds: {ring-los-share: {value: 1, why: x}}\n", `f.yaml:3:18: there is no threshold "ring-los-share"; did you mean ring-loss-share?`},
		{"device threshold without why", "devices:\n  - name: eth0\n    thresholds: {ring-loss-share: {value: 1}}\n", `f.yaml:3:18: threshold ring-loss-share has no why: say for what reason it differs`},
		{"device CPUs", "devices:\n  - name: eth0\n    cpus: {network: 1-2, forbidden: 1-2}\n", `f.yaml:2:5: all network CPUs (1-2) are forbidden ones (1-2)`},
		{"device CPU role", "devices:\n  - name: eth0\n    cpus: {netwrk: 1-2}\n", `f.yaml:3:12: unknown key "netwrk" in cpus; did you mean network?`},
		{"device key", "devices:\n  - nmae: eth0\n", `f.yaml:2:5: unknown key "nmae" in an entry of devices; did you mean name?`},
		{"finding", "acknowledge:\n  - finding: irq-stackd\n", `f.yaml:2:14: there is no finding "irq-stackd"; did you mean irq-stacked?`},
		{"no finding", "acknowledge:\n  - subject: x\n", `f.yaml:2:5: the entry of acknowledge names no finding`},
		{"no subject", "acknowledge:\n  - finding: gro-off\n", `f.yaml:2:5: the entry of acknowledge for gro-off names no subject ("*" means every one)`},
		{"no reason", "acknowledge:\n  - {finding: gro-off, subject: eth0, until: 2031-01-01}\n", `f.yaml:2:5: the entry of acknowledge for gro-off gives no reason`},
		{"no expiry", "acknowledge:\n  - {finding: gro-off, subject: eth0, reason: x}\n", `f.yaml:2:5: the entry of acknowledge for gro-off has no until: the last day on which it holds`},
		{"date", "acknowledge:\n  - finding: gro-off\n    until: 2031-02-30\n", `f.yaml:3:12: until is "2031-02-30"; a date such as 2031-12-31 is needed`},
		{"date as number", "acknowledge:\n  - until: 2031\n", `f.yaml:2:12: until is 2031; a date such as 2031-12-31 is needed`},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := Parse("f.yaml", []byte(test.file), vocabulary())
			if err == nil {
				t.Fatalf("accepted: %+v", p)
			}
			if err.Error() != test.want {
				t.Errorf("\n got %s\nwant %s", err, test.want)
			}
			if !reflect.DeepEqual(p, Policy{}) {
				t.Errorf("an error and a policy: %+v", p)
			}
		})
	}
}

// Whatever the file, Parse neither panics nor returns half a policy, and
// every error names a line of the file.
func FuzzParse(f *testing.F) {
	whole, err := os.ReadFile("testdata/site.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	for _, name := range fileNames() {
		data, err := policyFiles.ReadFile("policies/" + name + ".yaml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	for _, seed := range []string{
		"", "\x00", "a: *x\n", "? a\n: b\n", "- - - a\n", "name: |\n  x\n", "name: >+\n\n", "<<: *a\n", "{", "a: {b: [}]}\n", "\ufeffname: x\n", "name: x\r\nlatency: true\r\n",
		"acknowledge:\n  - {finding: gro-off, subject: '*', reason: x, until: 2031-01-01}\n", "cpus: {network: 0-65535}\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse("f.yaml", data, vocabulary())
		if (err != nil) != reflect.DeepEqual(p, Policy{}) {
			t.Fatalf("error %v with policy %+v", err, p)
		}
		if err == nil {
			return
		}
		var e *Error
		if !errors.As(err, &e) || e.Line < 1 || e.Column < 1 || e.Text == "" {
			t.Fatalf("the error names no place: %v", err)
		}
		if lines := bytes.Count(data, []byte("\n")) + bytes.Count(data, []byte("\r")) + 1; e.Line > lines+1 {
			t.Fatalf("the error names line %d of %d", e.Line, lines)
		}
		if strings.ContainsAny(err.Error(), "\x1b\x00") {
			t.Fatalf("the error carries control characters: %q", err)
		}
	})
}
