package hosttest_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/napitune/napitune/detect/host/archive"
	"github.com/napitune/napitune/detect/host/hosttest"
	"github.com/napitune/napitune/detect/knob"
)

// hostsDir is the directory of captured hosts, which are not part of the project.
func hostsDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("NAPITUNE_HOSTS")
	if dir != "" {
		return dir
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("NAPITUNE_HOSTS is not set: CI must test the captured hosts")
	}
	t.Skip("NAPITUNE_HOSTS is not set: no captured hosts to test")
	return ""
}

// Every captured host must become a machine whose settings can be written and
// put back, whatever its files look like.
func TestCapturedHosts(t *testing.T) {
	t.Parallel()
	seen, written, moved := 0, 0, 0
	err := filepath.WalkDir(hostsDir(t), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".tar.gz") {
			return err
		}
		c, err := archive.Open(path)
		if err != nil {
			return nil // package archive has its own tests
		}
		seen++
		m, err := hosttest.NewMemory(c.Samples)
		if err != nil {
			t.Errorf("%s: %v", filepath.Base(path), err)
			return nil
		}
		before := m.Dump()
		for _, k := range knob.All() {
			if k.Stage == knob.StageChannels {
				continue // vectors of removed queues do not come back as they were
			}
			v := m.View()
			for _, r := range k.Refs(v) {
				written += roundTrip(t, m, k, v, r)
			}
		}
		if diff := cmp.Diff(before, m.Dump()); diff != "" {
			t.Errorf("%s (-before +after):\n%s", filepath.Base(path), diff)
		}
		moved += moveInterrupts(t, m)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen == 0 || written == 0 || moved == 0 {
		t.Errorf("%d hosts, %d settings written, %d interrupts moved: nothing was tested", seen, written, moved)
	}
	t.Logf("%d hosts, %d settings written and put back, %d interrupts moved", seen, written, moved)
}

// roundTrip writes another value and the old one.
func roundTrip(t *testing.T, m *hosttest.Memory, k *knob.Kind, v knob.View, r knob.Ref) int {
	was := k.Read(v, r)
	if was.Status != knob.Known {
		return 0
	}
	for _, value := range []string{"on", "off", "64", "512", "1", "0"} {
		canonical, err := k.Codec.Canonical(value)
		if err != nil || canonical == was.Value || k.Check(was.Bounds, canonical) != nil {
			continue
		}
		if err := k.Write(v, m.Writer(), r, canonical); err != nil {
			t.Logf("refused: %v", err)
			return 0
		}
		if err := k.Write(m.View(), m.Writer(), r, was.Value); err != nil {
			t.Errorf("back: %v", err)
		}
		return 1
	}
	return 0
}

// moveInterrupts moves the interrupts of queues, also of those that are only
// known from /proc/interrupts: the kernel has a file for each of them.
func moveInterrupts(t *testing.T, m *hosttest.Memory) int {
	t.Helper()
	moved := 0
	v := m.View()
	for _, d := range v.Devices {
		for q := range 4 {
			irq, err := v.IRQ(d.Name, false, q)
			if err != nil {
				continue
			}
			name := "proc/irq/" + strconv.Itoa(irq) + "/smp_affinity"
			if err := m.Writer().WriteFile(name, []byte("1")); err != nil {
				t.Logf("refused: %v", err)
				continue
			}
			if text, err := v.Host.ReadFile(name + "_list"); err != nil || string(text) != "0\n" {
				t.Errorf("%s: %q, %v after writing CPU 0", name, text, err)
			}
			moved++
		}
	}
	return moved
}
