package detect

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/tree"
)

// Columns of Linux 6.18 and of 5.4.
const (
	conntrackHead = "entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart\n"
	conntrackOld  = "entries  searched found new invalid ignore delete delete_list insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart\n"
)

// conntrackLine has the given numbers in the three columns of losses.
func conntrackLine(failed, drop, early string) string {
	const zero = "00000000"
	words := strings.Fields(strings.Repeat(zero+" ", 17))
	words[0], words[9], words[10], words[11] = "000003e8", failed, drop, early
	return strings.Join(words, " ") + "\n"
}

func TestParseConntrackStat(t *testing.T) {
	tests := []struct {
		name, text string
		want       map[string][]uint32
		errs       int
	}{
		{"two CPUs", conntrackHead + conntrackLine("00000001", "0000000a", "00000000") + conntrackLine("00000000", "ffffffff", "00000002"),
			map[string][]uint32{"insert_failed": {1, 0}, "drop": {10, 4294967295}, "early_drop": {0, 2}}, 0},
		{"an older kernel", conntrackOld + conntrackLine("00000001", "0000000a", "00000002"),
			map[string][]uint32{"insert_failed": {1}, "drop": {10}, "early_drop": {2}}, 0},
		{"a line cut short", conntrackHead + conntrackLine("00000001", "0000000a", "00000000") + "000003e8 0000", nil, 1},
		{"its last number cut", conntrackHead + strings.TrimSuffix(conntrackLine("00000001", "0000000a", "00000000"), "000\n"), nil, 1},
		{"not hexadecimal", conntrackHead + conntrackLine("0000000g", "0000000a", "00000000"), nil, 1},
		{"other columns", "entries found\n00000001 00000002\n", nil, 1},
		{"empty", "", nil, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, errs := parseConntrackStat(tt.text)
			if diff := cmp.Diff(tt.want, got); diff != "" || len(errs) != tt.errs {
				t.Errorf("errors %v (-want +got):\n%s", errs, diff)
			}
		})
	}
}

func FuzzParseConntrackStat(f *testing.F) {
	f.Add(conntrackHead + conntrackLine("00000001", "0000000a", "00000000"))
	f.Add("drop\n00000001\n")
	f.Fuzz(func(t *testing.T, text string) {
		got, errs := parseConntrackStat(text)
		if (got == nil) != (len(errs) > 0) {
			t.Fatalf("%v, %v", got, errs)
		}
		for name, rows := range got {
			if len(rows) == 0 || len(rows) != len(strings.Split(strings.TrimRight(text, "\n"), "\n"))-1 {
				t.Fatalf("%s has %d rows", name, len(rows))
			}
		}
	})
}

// TestConntrack: levels are of the last sample, losses between two are modulo 2^32.
func TestConntrack(t *testing.T) {
	take := func(files map[string]string) *Snapshot {
		fsys := tree.New()
		files["proc/stat"] = "cpu0 1 2 3 4\n"
		for name, text := range files {
			if err := fsys.WriteFile(name, []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		s, err := Collect(&host.Host{FS: fsys})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	sample := func(count, row string) *Snapshot {
		return take(map[string]string{conntrackCount: count + "\n", conntrackMax: "262144\n", conntrackStat: conntrackHead + row})
	}
	before := sample("9", conntrackLine("00000000", "fffffffe", "00000001")+conntrackLine("00000000", "00000001", "00000001"))
	after := sample("262100", conntrackLine("00000000", "00000003", "00000001")+conntrackLine("00000000", "00000002", "00000004"))
	o := Between(before, after)
	if diff := cmp.Diff(map[string]uint64{"drop": 6, "early_drop": 3, "insert_failed": 0}, o.Conntrack); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if c := o.Last.Conntrack; !c.Known || c.Count != 262100 || c.Max != 262144 {
		t.Errorf("%+v", c)
	}
	if o := Between(before, sample("9", conntrackLine("00000000", "00000003", "00000001"))); o.Conntrack != nil {
		t.Errorf("rows of another number of CPUs were subtracted: %v", o.Conntrack)
	}
	without := take(map[string]string{})
	if without.Conntrack.Known || Between(without).Conntrack != nil {
		t.Errorf("not loaded: %+v", without.Conntrack)
	}
	for _, g := range without.Gaps {
		if strings.Contains(g.Source, "conntrack") {
			t.Errorf("a module that is not loaded is a gap: %+v", g)
		}
	}
}
