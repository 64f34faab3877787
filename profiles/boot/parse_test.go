package boot

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// unplaced compares profiles but for the lines they were read from.
var unplaced = cmp.Options{
	cmpopts.IgnoreFields(Setting{}, "Line"), cmpopts.IgnoreFields(Entry{}, "Line"), cmpopts.EquateEmpty(),
}

func edge(t testing.TB) ([]byte, Profile) {
	t.Helper()
	data, err := os.ReadFile("testdata/edge.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p, err := Parse("testdata/edge.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	return data, p
}

func TestParse(t *testing.T) {
	t.Parallel()
	_, got := edge(t)
	want := Profile{
		Name: "edge", Description: "Edge routers of the second site.",
		Host: []Setting{
			{"net.core.netdev_budget", "", 0, "600", 6},
			{"net.core.flow_limit_cpu_bitmap", "", 0, "solve", 7},
		},
		Entries: []Entry{
			{Match{Driver: "virtio_net", Bus: "0000:00:0[5-9].0", Queues: 4}, []Setting{
				{"channels.combined", "", 0, "4", 11},
				{"ring.rx", "", 0, "1024", 12},
				{"feature.rx-gro", "", 0, "on", 13},
				{"gro_flush_timeout", "", 0, "20000", 14},
				{"rss.hash.udp4", "", 0, "sdfn", 15},
				{"irq.affinity", "rx", AllQueues, "solve", 16},
				{"irq.affinity", "rx", 0, "2", 17},
				{"xps.cpus", "tx", AllQueues, "0-3", 18},
				{"rps.cpus", "rx", AllQueues, "", 19},
			}, false, 9},
			{Match{Name: "eth9*", MAC: "02:fc:00:00:00:01"}, []Setting{{"rss.table", "", 0, "even", 25}}, true, 20},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestFormatIsRead(t *testing.T) {
	t.Parallel()
	_, p := edge(t)
	again, err := Parse("again.yaml", p.Format())
	if err != nil {
		t.Fatalf("%v in\n%s", err, p.Format())
	}
	if diff := cmp.Diff(p, again, unplaced); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// Every mistake is named with its line and costs nothing but itself.
func TestMistakes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, text string
		want       []string
		settings   int // that are left
	}{
		{"empty", "", []string{"1:1: the file is empty"}, 0},
		{"a policy", "latency: true\n", []string{"1:1: this is no boot profile: the key boot-profile: 1 is missing"}, 0},
		{"newer", "boot-profile: 2\n", []string{"1:15: boot-profile is 2, and this version of napitune reads up to 1: a newer one wrote the file"}, 0},
		{"not YAML", "boot-profile: 1\nhost: {\n", []string{"2:7: not valid YAML: could not find flow mapping end token '}'"}, 0},
		{"misspelt", "boot-profile: 1\nhost:\n  net.core.netdev_bugdet: 600\n  net.core.dev_weight: 64\n",
			[]string{`3:3: there is no setting "net.core.netdev_bugdet" of the host; did you mean net.core.netdev_budget?`}, 1},
		{"unknown key", "boot-profile: 1\nhosts:\n  net.core.dev_weight: 64\nhost:\n  net.core.dev_weight: 64\n",
			[]string{`2:1: unknown key "hosts" in the profile; did you mean host?`}, 1},
		{"twice", "boot-profile: 1\nhost:\n  net.core.dev_weight: 64\n  net.core.dev_weight: 65\n",
			[]string{`4:3: key "net.core.dev_weight" is given twice, first in line 3`}, 1},
		{"wrong place", "boot-profile: 1\nhost:\n  ring.rx: 64\n  net.core.dev_weight: 64\n",
			[]string{"3:3: ring.rx is a setting of a device and belongs under devices"}, 1},
		{"kept by a program", "boot-profile: 1\nhost:\n  irqbalance.banned: 30,31\n  net.core.dev_weight: 64\n",
			[]string{"3:3: irqbalance.banned cannot be in a profile: a program keeps it, and the next boot gives its numbers anew; each boot tells the program itself"}, 1},
		{"no number", "boot-profile: 1\nhost:\n  net.core.dev_weight: many\n  net.core.netdev_budget: solve\n", []string{
			`3:24: net.core.dev_weight: "many" is not a whole number`,
			"4:27: net.core.netdev_budget cannot be worked out on the host: solve is for CPUs and numbers of queues",
		}, 0},
		{"no value", "boot-profile: 1\nhost:\n  net.core.dev_weight:\n", []string{`3:24: net.core.dev_weight has no value (write "" for none)`}, 0},
		{"queues", "boot-profile: 1\ndevices:\n- match: {name: eth0}\n  settings:\n    irq.affinity: 1\n    rx-x/irq.affinity: 1\n    rx-0/ring.rx: 1\n    rx-00/irq.affinity: 1\n    tx-0/rps.cpus: 1\n    rx-1/irq.affinity: 1\n", []string{
			`5:5: irq.affinity cannot be set there: write rx-N/irq.affinity, tx-N/irq.affinity, or * for N`,
			`6:5: "rx-x" is no queue: it is rx-N, tx-N, rx-* or tx-*`,
			`7:5: rx-0/ring.rx cannot be set there: ring.rx is a setting of the whole device and has no queue before it`,
			`8:5: "rx-00" is no queue: it is rx-N, tx-N, rx-* or tx-*`,
			`9:5: tx-0/rps.cpus cannot be set there: write rx-N/rps.cpus or rx-*/rps.cpus`,
		}, 1},
		{"half a match", "boot-profile: 1\ndevices:\n- match: {driver: e1000e, buss: x}\n  settings: {ring.rx: 64}\n- match: {name: a}\n  settings: {ring.rx: 64}\n",
			[]string{`3:27: unknown key "buss" in match; did you mean bus?`}, 1},
		{"no match", "boot-profile: 1\ndevices:\n- settings: {ring.rx: 64}\n- match: {}\n", []string{
			`3:3: the entry of devices has no match: it would be for every device (name: "*" means that)`,
			`4:3: the match is empty: it would be for every device (name: "*" means that)`,
		}, 0},
		{"match", "boot-profile: 1\ndevices:\n- match: {name: '[', mac: 1:2, queues: 0}\n", []string{
			`3:17: name "[" is no wildcard: * stands for anything, ? for one letter, [ab] for a or b`,
			`3:27: mac is "1:2"; an address such as 02:fc:00:00:00:01 is needed`,
			`3:40: queues is "0"; a whole number from 1 to 65535 is needed`,
		}, 0},
		{"name", "boot-profile: 1\nname: ../../etc/passwd\n", []string{
			`2:7: name "../../etc/passwd": a name has letters, digits, dots, dashes and underscores, and does not end in .yaml`,
		}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p, mistakes := ParseRest("f.yaml", []byte(test.text))
			var got []string
			for _, m := range mistakes {
				got = append(got, strings.TrimPrefix(m.Error(), "f.yaml:"))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			left := len(p.Host)
			for _, e := range p.Entries {
				left += len(e.Settings)
			}
			if left != test.settings {
				t.Errorf("%d settings are left, want %d: %+v", left, test.settings, p)
			}
			strictly, err := Parse("f.yaml", []byte(test.text))
			if err == nil || !cmp.Equal(strictly, Profile{}) {
				t.Errorf("Parse: %v, %+v", err, strictly)
			}
		})
	}
}

func TestIsProfile(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"boot-profile: 1\n": true, "# x\n\"boot-profile\" : 7\n": true, "latency: true\n": false, "# boot-profile: 1\n": false, "": false,
	} {
		if got := IsProfile([]byte(text)); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// No input ends the program, an error leaves no profile, and what is read is
// what is written.
func FuzzParse(f *testing.F) {
	data, _ := edge(f)
	f.Add(string(data))
	for _, seed := range []string{
		"", "boot-profile: 1\n", "boot-profile: 1\nhost: {net.core.dev_weight: 0x10}\n", "boot-profile: 1\nhost: [1]\n",
		"boot-profile: 1\ndevices: [{match: {name: \"a\\x1b\"}, settings: {rx-*/rps.cpus: 0x3}}]\n", "boot-profile: 1\nname: &a b\nhost: *a\n",
		"boot-profile: 1\ndevices: [{match: {queues: 3}, settings: {threaded: yes, ring.rx: -1}}]\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		rest, mistakes := ParseRest("f.yaml", []byte(text))
		p, err := Parse("f.yaml", []byte(text))
		if (err == nil) != (len(mistakes) == 0) {
			t.Fatalf("Parse: %v; ParseRest: %v", err, mistakes)
		}
		if err != nil {
			if !cmp.Equal(p, Profile{}) {
				t.Errorf("error %v with %+v", err, p)
			}
		}
		// What is left beside mistakes is a whole profile as well.
		if len(mistakes) > 0 && len(rest.Host)+len(rest.Entries) == 0 || !ValidName(rest.Name) {
			return
		}
		again, err := Parse("f.yaml", rest.Format())
		if err != nil {
			t.Fatalf("%v in\n%s", err, rest.Format())
		}
		if diff := cmp.Diff(rest, again, unplaced); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}
