package rules_test

import (
	"bytes"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/archive"
	"github.com/napitune/napitune/detect/host/tree"
	"github.com/napitune/napitune/profiles"
	"github.com/napitune/napitune/rules"
	"github.com/napitune/napitune/rules/plan"
)

// TestDamage puts damaged files into three captured hosts, one file at a time:
// cut at every byte, empty, and binary garbage. The whole chain must stand it,
// and no interrupt count may come out that the whole file does not have.
func TestDamage(t *testing.T) {
	dir := hostsDir(t)
	for _, name := range []string{"web/gregg_bpfbook_2cpu_ena", "issues/coreos2135_vmxnet3_46cpu", "prometheus/node_exporter_4cpu"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			capture, err := archive.Open(filepath.Join(dir, filepath.FromSlash(name)+".tar.gz"))
			if err != nil {
				t.Fatal(err)
			}
			h := capture.Samples[0]
			files := h.FS.(*tree.Tree)
			whole := interruptsOf(t, h)
			for _, path := range files.Paths() {
				data, err := files.ReadFile(path)
				if err != nil {
					continue // a directory or a link
				}
				for _, damaged := range damages(data) {
					copied := files.Clone()
					if err := copied.WriteFile(path, damaged); err != nil {
						t.Fatal(err)
					}
					other := *h
					other.FS = copied
					judgeDamaged(t, path, &other, whole)
				}
			}
		})
	}
}

// damages are the ways in which a file is damaged: cut at every byte (of files
// up to 8 KiB, at 500 places of larger ones), emptied, and filled with garbage.
func damages(data []byte) [][]byte {
	const every, places = 8 << 10, 500
	step := 1
	if len(data) > every {
		step = len(data) / places
	}
	out := [][]byte{nil, bytes.Repeat([]byte{0}, 64), bytes.Repeat([]byte("-1 "), 64), bytes.Repeat([]byte{'9'}, 4096)}
	for cut := 0; cut < len(data); cut += step {
		out = append(out, data[:cut])
	}
	random := rand.New(rand.NewPCG(5, 6))
	for range 8 {
		garbage := slices.Clone(data)
		for range 1 + len(garbage)/16 {
			if len(garbage) > 0 {
				garbage[random.IntN(len(garbage))] = byte(random.Uint32())
			}
		}
		out = append(out, garbage)
	}
	return out
}

func interruptsOf(t *testing.T, h *host.Host) map[int][]uint32 {
	t.Helper()
	s, err := detect.Collect(h)
	if err != nil {
		t.Fatal(err)
	}
	out := map[int][]uint32{}
	for _, row := range s.IRQs.Rows {
		out[row.Number] = row.Counts
	}
	return out
}

func judgeDamaged(t *testing.T, path string, h *host.Host, whole map[int][]uint32) {
	t.Helper()
	s, err := detect.Collect(h)
	if err != nil {
		return // nothing was readable any more: said so
	}
	o := detect.Between(s)
	p := plan.Build(rules.Evaluate(o, profiles.Balanced()), plan.Input{States: s.Knobs, View: s.View()})
	for _, c := range p.Changes {
		if c.Ref.Kind != "irq.affinity" {
			t.Errorf("%s damaged: %s → %s is proposed from it", path, c.Ref, c.After)
		}
	}
	if path == "proc/interrupts" {
		return // garbage may be a valid number; the cut files are checked below
	}
	for _, row := range s.IRQs.Rows {
		if counts, ok := whole[row.Number]; ok && !slices.Equal(counts, row.Counts) {
			t.Errorf("%s damaged: interrupt %d counts %v, was %v", path, row.Number, row.Counts, counts)
		}
	}
}

// TestCutInterrupts: a file that ends in the middle gives only lines that are
// whole, with the numbers they have.
func TestCutInterrupts(t *testing.T) {
	capture, err := archive.Open(filepath.Join(hostsDir(t), "web", "gregg_bpfbook_2cpu_ena.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	h := capture.Samples[0]
	whole := interruptsOf(t, h)
	files := h.FS.(*tree.Tree)
	data, err := files.ReadFile("proc/interrupts")
	if err != nil {
		t.Fatal(err)
	}
	for cut := range data {
		copied := files.Clone()
		if err := copied.WriteFile("proc/interrupts", data[:cut]); err != nil {
			t.Fatal(err)
		}
		other := *h
		other.FS = copied
		s, err := detect.Collect(&other)
		if err != nil {
			continue
		}
		for _, row := range s.IRQs.Rows {
			if len(row.Counts) == len(whole[row.Number]) && !slices.Equal(row.Counts, whole[row.Number]) {
				t.Fatalf("cut at byte %d: interrupt %d counts %v, was %v", cut, row.Number, row.Counts, whole[row.Number])
			}
		}
	}
}
