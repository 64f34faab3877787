// Command sourcesum records which compiler built the eBPF objects and the
// digests of sources and objects. Package probes runs it from go generate, in
// its own directory, and a test there compares the result with the files.
package main

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	cc := flag.String("cc", "clang", "compiler that built the objects")
	flag.Parse()
	if err := run(*cc); err != nil {
		fmt.Fprintln(os.Stderr, "sourcesum:", err)
		os.Exit(1)
	}
}

func run(cc string) error {
	version, err := exec.Command(cc, "--version").Output()
	if err != nil {
		return fmt.Errorf("ask %s for its version: %w", cc, err)
	}
	// The first line only: the others name paths of this machine.
	first, _, _ := strings.Cut(string(version), "\n")
	if err := os.WriteFile("CLANG", []byte(first+"\n"), 0o644); err != nil {
		return err
	}
	sums, err := Sums(".")
	if err != nil {
		return err
	}
	return os.WriteFile("SUM", []byte(sums), 0o644)
}

// Sums lists the SHA-256 of every C source and every object below dir, one a
// line, in order.
func Sums(dir string) (string, error) {
	var names []string
	for _, pattern := range []string{"bpf/*.[ch]", "*_bpfel.o"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return "", err
		}
		names = append(names, found...)
	}
	slices.Sort(names)
	var out strings.Builder
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		relative, err := filepath.Rel(dir, name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&out, "%x  %s\n", sha256.Sum256(data), filepath.ToSlash(relative))
	}
	return out.String(), nil
}
