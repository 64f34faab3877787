package knob

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestRowsAreComplete(t *testing.T) {
	t.Parallel()
	for _, k := range All() {
		if k.Title == "" || k.Source == "" || len(k.Doc) < 80 || !strings.HasSuffix(k.Doc, ".") {
			t.Errorf("%s: title %q, source %q, doc %q: something is missing", k.Name, k.Title, k.Source, k.Doc)
		}
		if strings.ContainsAny(k.Doc, "\n\t") || strings.Contains(k.Doc, "  ") {
			t.Errorf("%s: doc is not one paragraph: %q", k.Name, k.Doc)
		}
		if k.Codec.Name == "" || k.Codec.Canonical == nil {
			t.Errorf("%s: no codec", k.Name)
		}
		if k.Default == nil || k.Refs == nil || k.Read == nil || k.Write == nil || k.Shell == nil || k.Files == nil {
			t.Errorf("%s: a function is missing", k.Name)
		}
		for _, c := range k.Clobbers {
			other, ok := Lookup(c)
			if !ok {
				t.Errorf("%s clobbers %s, which is no row", k.Name, c)
			} else if other.Stage <= k.Stage {
				t.Errorf("%s clobbers %s, which is not written after it", k.Name, c)
			}
		}
		if found, ok := Lookup(k.Name); !ok || found != k {
			t.Errorf("Lookup(%q) does not find the row", k.Name)
		}
		if value, ok := k.Default(View{HZ: 250}, Ref{Kind: k.Name, Queue: -1}); ok {
			if canonical, err := k.Codec.Canonical(value); err != nil || canonical != value {
				t.Errorf("%s: default %q is not canonical (%q, %v)", k.Name, value, canonical, err)
			}
		}
	}
}

func TestAllIsACopy(t *testing.T) {
	t.Parallel()
	first := All()
	first[0] = nil
	if All()[0] == nil {
		t.Error("a caller can change the table")
	}
}

func TestGoldenRows(t *testing.T) {
	t.Parallel()
	var got bytes.Buffer
	for _, k := range All() {
		fmt.Fprintf(&got, "%-11s %-31s of %-16s %-8s %-8s disrupts %-8s %q", k.Stage, k.Name, k.Scope, k.Codec.Name, k.Unit, k.Disruption, k.Title)
		if len(k.Clobbers) > 0 {
			fmt.Fprintf(&got, " clobbers %s", strings.Join(k.Clobbers, " "))
		}
		got.WriteByte('\n')
	}
	const path = "testdata/knobs.golden"
	want, err := os.ReadFile(path)
	if err != nil && !*update {
		t.Fatal(err)
	}
	if *update && !bytes.Equal(want, got.Bytes()) {
		if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Logf("rewrote %s", path)
		return
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("rows (-want +got); -update accepts them:\n%s", diff)
	}
}

func TestParseRef(t *testing.T) {
	t.Parallel()
	valid := map[string]Ref{
		"net.core.netdev_budget":              Global("net.core.netdev_budget"),
		"eth0/ring.rx":                        Device("eth0", "ring.rx"),
		"eth0/rx-3/irq.affinity":              Rx("eth0", 3, "irq.affinity"),
		"eth0/tx-0/irq.affinity":              Tx("eth0", 0, "irq.affinity"),
		"eth0/rx-0/rps.cpus":                  Rx("eth0", 0, "rps.cpus"),
		"eth0/tx-1/xps.cpus":                  Tx("eth0", 1, "xps.cpus"),
		"eth0/tx-1/xps.rxqs":                  Tx("eth0", 1, "xps.rxqs"),
		"eth0.100/feature.rx-gro":             Device("eth0.100", "feature.rx-gro"),
		"eth0/rss.hash.udp4":                  Device("eth0", "rss.hash.udp4"),
		"$(reboot)/threaded":                  Device("$(reboot)", "threaded"),
		"abcdefghijklmno/rss.table":           Device("abcdefghijklmno", "rss.table"),
		"rx-0/gro_flush_timeout":              Device("rx-0", "gro_flush_timeout"),
		"eth0/coalesce.adaptive-rx":           Device("eth0", "coalesce.adaptive-rx"),
		"eth0/rx-65535/rps.flow_cnt":          Rx("eth0", 65535, "rps.flow_cnt"),
		"mlx5@0000:04:00.1/rx-0/irq.affinity": Rx("mlx5@0000:04:00.1", 0, "irq.affinity"),
	}
	for text, want := range valid {
		got, err := ParseRef(text)
		if err != nil {
			t.Errorf("ParseRef(%q): %v", text, err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("ParseRef(%q) (-want +got):\n%s", text, diff)
		}
	}
	for _, text := range []string{
		"", "/", "nonsense", "eth0/nonsense", "ring.rx", "eth0/net.core.netdev_budget",
		"eth0/rx-0/xps.cpus", "eth0/rx-0/xps.rxqs", "eth0/tx-0/rps.cpus", "eth0/rps.cpus", "eth0/rx-0/ring.rx",
		"../rss.table", "./rss.table", "/rss.table", "a b/rss.table", "a\nb/rss.table", "a\x00/rss.table",
		"abcdefghijklmnop/rss.table", "mlx5@0000:04:00/rss.table", "mlx5@x:y/rss.table", "a:b@0000:04:00.0/rss.table", "@0000:04:00.0/rss.table", "eth0:1/rss.table", "eth0/../rss.table", "x/y/rx-0/rps.cpus",
		"eth0/rx-/rps.cpus", "eth0/rx--1/rps.cpus", "eth0/rx-01/rps.cpus", "eth0/rx-+1/rps.cpus",
		"eth0/rx-65536/rps.cpus", "eth0/q-1/rps.cpus",
	} {
		if got, err := ParseRef(text); err == nil {
			t.Errorf("ParseRef(%q) = %v, want an error", text, got)
		} else if got != (Ref{}) {
			t.Errorf("ParseRef(%q) fails with %v and still gives %v", text, err, got)
		}
	}
}

func FuzzParseRef(f *testing.F) {
	for _, seed := range []string{"net.core.netdev_budget", "eth0/ring.rx", "eth0/rx-3/irq.affinity", "../rss.table", "eth0/tx-00/xps.cpus"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ref, err := ParseRef(text)
		if (err != nil) != (ref == Ref{}) {
			t.Fatalf("ParseRef(%q) = %v, %v", text, ref, err)
		}
		if err != nil {
			return
		}
		if ref.String() != text {
			t.Fatalf("ParseRef(%q).String() = %q", text, ref.String())
		}
	})
}

func TestCanonical(t *testing.T) {
	t.Parallel()
	tests := []struct{ kind, text, want string }{
		{"ring.rx", " 00512\n", "512"},
		{"net.core.netdev_budget", "-1", "-1"},
		{"feature.rx-gro", "ON", "on"},
		{"threaded", "0", "off"},
		{"rps.cpus", "3,2,1,0,8", "0-3,8"},
		{"rps.cpus", "0xf0", "4-7"},
		{"rps.cpus", "", ""},
		{"rps.cpus", "10", "10"},
		{"xps.rxqs", "3,1,2", "1-3"},
		{"xps.rxqs", "0x12", "1,4"},
		{"xps.rxqs", "", ""},
		{"rss.hash.udp4", "nfds", "sdfn"},
		{"rss.hash.udp4", "", ""},
		{"rss.table", "0 1 2 3 0 1 2 3", "0-3*2"},
		{"rss.table", "0*2 0*2", "0*4"},
		{"rss.table", "0 0 1 1", "0*2 1*2"},
		{"rss.table", "0-2*2 0-1", "0-2*2 0-1"},
		{"rss.table", "7", "7"},
		{"rss.table", "3 2 1", "3 2 1"},
		{"rss.table", "0 1 1 2 2", "0-1 1-2 2"},
		{"rss.table", "4294967295 0", "4294967295 0"},
	}
	for _, tt := range tests {
		k, _ := Lookup(tt.kind)
		if got, err := k.Codec.Canonical(tt.text); err != nil || got != tt.want {
			t.Errorf("%s: Canonical(%q) = %q, %v, want %q", tt.kind, tt.text, got, err, tt.want)
		}
	}
	refused := []struct{ kind, text string }{
		{"ring.rx", ""}, {"ring.rx", "0x10"}, {"ring.rx", "1.5"}, {"ring.rx", "9223372036854775808"},
		{"threaded", ""}, {"threaded", "2"}, {"rps.cpus", "3-0"}, {"rps.cpus", "99999999"}, {"rps.cpus", "0xg"}, {"xps.rxqs", "3-0"}, {"xps.rxqs", "tx-0"},
		{"rss.hash.udp4", "sdfx"}, {"rss.table", ""}, {"rss.table", "0*0"}, {"rss.table", "3-0"},
		{"rss.table", "0*65537"}, {"rss.table", "0-4294967295*4294967295"}, {"rss.table", "-1"}, {"rss.table", "4294967296"},
	}
	for _, tt := range refused {
		k, _ := Lookup(tt.kind)
		if got, err := k.Codec.Canonical(tt.text); err == nil || got != "" {
			t.Errorf("%s: Canonical(%q) = %q, %v, want an error", tt.kind, tt.text, got, err)
		}
	}
}

func FuzzCanonical(f *testing.F) {
	for _, seed := range []string{"", "0", "-5", "on", "off", "0-3,8", "0xff", "sdfn", "0-3*32", "0*32 1*32", "0-31:2/4"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, c := range []Codec{integerCodec, switchCodec, cpusCodec, queuesCodec, tableCodec, fieldsCodec} {
			once, err := c.Canonical(text)
			if err != nil {
				if once != "" {
					t.Fatalf("%s: Canonical(%q) = %q with error %v", c.Name, text, once, err)
				}
				continue
			}
			twice, err := c.Canonical(once)
			if err != nil || twice != once {
				t.Fatalf("%s: Canonical(%q) = %q, again %q, %v", c.Name, text, once, twice, err)
			}
		}
	})
}

func FuzzTable(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 0, 1, 2, 3})
	f.Add([]byte{0, 0, 0, 1, 1, 5, 4, 3})
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) == 0 {
			return
		}
		slots := make([]uint32, len(data))
		for i, b := range data {
			slots[i] = uint32(b % 8)
		}
		got, err := ParseTable(FormatTable(slots))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(slots, got); diff != "" {
			t.Fatalf("%q (-want +got):\n%s", FormatTable(slots), diff)
		}
	})
}

func TestEvenTable(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		slots, queues int
		want          string
	}{
		{128, 4, "0-3*32"}, {128, 3, "0-2*42 0-1"}, {128, 1, "0*128"}, {4, 8, "0-3"}, {512, 64, "0-63*8"}, {4, 0, ""},
	} {
		if got := EvenTable(tt.slots, tt.queues); got != tt.want {
			t.Errorf("EvenTable(%d, %d) = %q, want %q", tt.slots, tt.queues, got, tt.want)
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	tests := []struct {
		kind   string
		bounds Bounds
		value  string
		ok     bool
	}{
		{"net.core.netdev_budget", Bounds{Min: 1, Max: 100}, "0", false},
		{"net.core.netdev_budget", Bounds{Min: 1, Max: 100}, "1", true},
		{"net.core.netdev_budget", Bounds{Min: 1, Max: 100}, "101", false},
		{"net.core.netdev_budget", Bounds{}, "101", true},
		{"rps.flow_cnt", Bounds{Max: 1 << 30, PowerOfTwo: true}, "0", true},
		{"rps.flow_cnt", Bounds{Max: 1 << 30, PowerOfTwo: true}, "4096", true},
		{"rps.flow_cnt", Bounds{Max: 1 << 30, PowerOfTwo: true}, "4095", false},
		{"rps.cpus", Bounds{CPUs: "0-3"}, "2-3", true},
		{"rps.cpus", Bounds{CPUs: "0-3"}, "", true},
		{"rps.cpus", Bounds{CPUs: "0-3"}, "2-4", false},
		{"irq.affinity", Bounds{Min: 1, CPUs: "0-3"}, "", false},
		{"xps.rxqs", Bounds{Max: 3}, "0,3", true},
		{"xps.rxqs", Bounds{Max: 3}, "3-4", false},
		{"xps.rxqs", Bounds{}, "", true},
		{"xps.rxqs", Bounds{}, "0", true},
		{"xps.rxqs", Bounds{}, "1", false},
		{"rss.table", Bounds{Slots: 8, Max: 3}, "0-3*2", true},
		{"rss.table", Bounds{Slots: 8, Max: 3}, "0-4*2", false},
		{"rss.table", Bounds{Slots: 8, Max: 3}, "0-3 0-4", false},
		{"rss.table", Bounds{Slots: 4, Max: 0}, "0*3 1", false},
		{"threaded", Bounds{Of: []string{"off"}}, "on", false},
		{"threaded", Bounds{Of: []string{"off", "on"}}, "1", true},
		{"threaded", Bounds{}, "perhaps", false},
	}
	for _, tt := range tests {
		k, _ := Lookup(tt.kind)
		if err := k.Check(tt.bounds, tt.value); (err == nil) != tt.ok {
			t.Errorf("%s: Check(%+v, %q) = %v", tt.kind, tt.bounds, tt.value, err)
		}
	}
}

func TestMayChange(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		wrote, other string
		want         bool
	}{
		{"coalesce.adaptive-rx", "coalesce.rx-usecs", true},
		{"coalesce.rx-usecs", "coalesce.rx-usecs", false},
		{"coalesce.rx-usecs", "irq.affinity", false},
		{"rss.hash.udp4", "rss.table", true},
		{"feature.rx-gro", "feature.rx-gro-list", true},
		{"feature.rx-gro", "irq.affinity", false},
		{"ring.rx", "ring.tx", true},
		{"ring.rx", "rss.table", true},
		{"channels.rx", "xps.cpus", true},
		{"channels.rx", "xps.rxqs", true},
		{"feature.rx-lro", "xps.rxqs", true},
		{"channels.rx", "net.core.netdev_budget", false},
		{"net.core.dev_weight", "net.core.netdev_budget", false},
		{"rps.cpus", "rps.flow_cnt", false},
		{"threaded", "gro_flush_timeout", false},
		{"irqbalance.banned", "irq.affinity", false},
	} {
		wrote, _ := Lookup(tt.wrote)
		other, _ := Lookup(tt.other)
		if got := wrote.MayChange(other); got != tt.want {
			t.Errorf("%s may change %s: %v", tt.wrote, tt.other, got)
		}
	}
}

// Another version's settings have addresses, too; what is no address stays none.
func TestParseAddress(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Ref{
		"net.core.future":  Global("net.core.future"),
		"eth0/tx-3/future": Tx("eth0", 3, "future"),
		"eth0/ring.rx":     Device("eth0", "ring.rx"),
	} {
		if got, err := ParseAddress(text); err != nil || got != want || got.String() != text {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
		if _, err := ParseRef(text); (err != nil) != (want.Kind != "ring.rx") {
			t.Errorf("ParseRef of %s: %v", text, err)
		}
	}
	for _, text := range []string{"", "eth0/", "eth0/rx-0/", "a/b/c/d", "../future", "eth0/rx-x/future", "eth0/rx-0/ring.rx", "eth0/net.core.netdev_budget"} {
		if got, err := ParseAddress(text); err == nil {
			t.Errorf("%q is %+v", text, got)
		}
	}
}
