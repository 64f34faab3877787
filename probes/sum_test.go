package probes

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestObjectsMatchSources: whoever edits C must run go generate, or the
// programs that ship are not those that were read.
func TestObjectsMatchSources(t *testing.T) {
	file, err := os.Open("SUM")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var listed []string
	for lines := bufio.NewScanner(file); lines.Scan(); {
		sum, name, ok := strings.Cut(lines.Text(), "  ")
		if !ok {
			t.Fatalf("line %q of SUM is not a digest and a name", lines.Text())
		}
		listed = append(listed, name)
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%x", sha256.Sum256(data)); got != sum {
			t.Errorf("%s has changed since go generate ran", name)
		}
	}
	var present []string
	for _, pattern := range []string{"bpf/*.[ch]", "*_bpfel.o"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		present = append(present, found...)
	}
	slices.Sort(present)
	if diff := cmp.Diff(listed, present); diff != "" {
		t.Errorf("files in SUM (-) and on disk (+):\n%s", diff)
	}
	if _, err := os.Stat("CLANG"); err != nil {
		t.Errorf("the compiler is not recorded: %v", err)
	}
}
