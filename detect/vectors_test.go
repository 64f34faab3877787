package detect

import (
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/tree"
)

const vectorHead = `name:   VECTOR
 size:   0
 mapped: 529
 flags:  0x00000103
Online bitmaps:        3
Global available:    884
Global reserved:       6
Total allocated:     539
System: 36: 0-19,21,50,128,236,243-244,246-255
 | CPU | avl | man | mac | act | vectors
`

func TestParseVectorTable(t *testing.T) {
	tests := []struct {
		name, text string
		want       map[int]int
		errs       int
	}{
		{"a full CPU, one with a reserved vector, one without any", vectorHead +
			"     0   147     0     0   55  32-49,51-87\n     2     0     0     0  202  32-49,51-127,129-235\n     4   200     1     0    0  \n",
			map[int]int{0: 147, 2: 0, 4: 200}, 0},
		{"as a child of another domain", strings.ReplaceAll(vectorHead, " | CPU", "     | CPU") + "         0   197     0     0    4  33-35,48\n", map[int]int{0: 197}, 0},
		{"cut in the last line", vectorHead + "  0 147 0 0 55 32-49\n  1 14", map[int]int{0: 147}, 1},
		{"damaged lines", vectorHead + "  0 147 0 0 55\n  x 1\n  1 y\n  0 3\n  99999 1\n", map[int]int{0: 147}, 4},
		{"no table", "name:   VECTOR\n size:   0\n", nil, 1},
		{"empty", "", nil, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, errs := parseVectorTable([]byte(tt.text))
			if diff := cmp.Diff(tt.want, got); diff != "" || len(errs) != tt.errs {
				t.Errorf("errors %v, free (-want +got):\n%s", errs, diff)
			}
		})
	}
}

func FuzzParseVectorTable(f *testing.F) {
	f.Add([]byte(vectorHead + " 0 147 0 0 55 32-49\n 2 0 0 0 202 32-235\n"))
	f.Add([]byte("| CPU | avl |\n1 2\n1 2\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		free, errs := parseVectorTable(data)
		if free == nil && len(errs) == 0 {
			t.Fatal("neither a table nor a reason")
		}
		for cpu, left := range free {
			if cpu < 0 || left < 0 || !strings.Contains(string(data), fmt.Sprint(left)) {
				t.Fatalf("CPU %d: %d vectors", cpu, left)
			}
		}
	})
}

// crowded is a machine with 2 CPUs and so many interrupts, all on CPU 1.
func crowded(t *testing.T, chip string, interrupts int) *tree.Tree {
	t.Helper()
	files := tree.New()
	text := "           CPU0       CPU1\n"
	for irq := range interrupts {
		text += fmt.Sprintf("%4d: 0 1 %s 1-edge nvme0q%d\n", irq, chip, irq)
		if err := files.WriteFile(fmt.Sprintf("proc/irq/%d/effective_affinity_list", irq), []byte("1\n")); err != nil {
			t.Fatal(err)
		}
	}
	if err := files.WriteFile("proc/interrupts", []byte(text)); err != nil {
		t.Fatal(err)
	}
	return files
}

func TestVectors(t *testing.T) {
	ident := func(arch string) func() (host.Ident, error) {
		return func() (host.Ident, error) { return host.Ident{Arch: arch}, nil }
	}
	table := func(files *tree.Tree) error {
		return files.WriteFile(vectorTable, []byte(vectorHead+" 0 147 0 0 55 32-49\n 1 3 0 0 199 32-235\n"))
	}
	tests := []struct {
		name string
		arch string
		chip string
		n    int
		more func(files *tree.Tree) error
		want Vectors
	}{
		{"the kernel's table", "x86_64", "PCI-MSIX-0000:00:05.0", 150, table, Vectors{Free: map[int]int{0: 147, 1: 3}}},
		{"too few interrupts to ask", "x86_64", "PCI-MSIX-0000:00:05.0", 90, table, Vectors{}},
		{"counted", "x86_64", "PCI-MSIX-0000:00:05.0", 150, nil, Vectors{Free: map[int]int{0: 197, 1: 47}, Counted: true}},
		{"counted to the last", "i686", "PCI-MSI", 250, nil, Vectors{Free: map[int]int{0: 197, 1: 0}, Counted: true}},
		{"the table is for root, the count is not", "x86_64", "PCI-MSI", 150,
			func(files *tree.Tree) error { return files.Fail(vectorTable, fs.ErrPermission) }, Vectors{Free: map[int]int{0: 197, 1: 47}, Counted: true}},
		{"a capture without the machine's name", "", "IO-APIC", 150, nil, Vectors{Free: map[int]int{0: 197, 1: 47}, Counted: true}},
		{"no such limit", "aarch64", "ITS-MSI", 500, nil, Vectors{}},
		{"event channels of Xen", "x86_64", "xen-pirq-msi-x", 500, nil, Vectors{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			files := crowded(t, tt.chip, tt.n)
			if tt.more != nil {
				if err := tt.more(files); err != nil {
					t.Fatal(err)
				}
			}
			s, err := Collect(&host.Host{FS: files, Ident: ident(tt.arch)})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, s.Vectors); diff != "" {
				t.Errorf("vectors (-want +got):\n%s", diff)
			}
			for _, g := range s.Gaps {
				if g.Source == vectorTable {
					t.Errorf("a gap that nobody can close: %+v", g)
				}
			}
		})
	}
	files := crowded(t, "PCI-MSI", 150)
	for irq := range 50 {
		if err := files.Fail(fmt.Sprintf("proc/irq/%d/effective_affinity_list", irq), fs.ErrNotExist); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Collect(&host.Host{FS: files, Ident: ident("x86_64")})
	if err != nil || s.Vectors.Free != nil {
		t.Errorf("a third of the interrupts is somewhere: %+v, %v", s.Vectors, err)
	}
}
