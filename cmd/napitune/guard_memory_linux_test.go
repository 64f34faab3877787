package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/napitune/napitune/apply"
	guarding "github.com/napitune/napitune/apply/guard"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/profiles/boot"
)

// changing is a machine in memory whose link and CPUs come and go, with the events
// of that.
type changing struct {
	besides
	mu      sync.Mutex
	down    bool
	online  string
	pending []host.Event
	ready   chan struct{}
}

func (c *changing) happen(change func(), e host.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	c.pending = append(c.pending, e)
	select {
	case c.ready <- struct{}{}:
	default:
	}
}

// altered is a file as it is by now. A device that is down has no interrupts, as
// with most drivers.
func (c *changing) altered(name string, data []byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case name == "sys/devices/system/cpu/online":
		return []byte(c.online + "\n")
	case c.down && name == "sys/class/net/eth0/flags":
		return []byte("0x1002\n")
	case c.down && name == "proc/interrupts":
		lines := slices.DeleteFunc(slices.Collect(bytes.Lines(data)), func(line []byte) bool { return bytes.Contains(line, []byte("eth0")) })
		return bytes.Join(lines, nil)
	}
	return data
}

// alteredFS is a file system some of whose files are as a test wants them.
type alteredFS struct {
	fs.FS
	alter func(name string, data []byte) []byte
}

func (f alteredFS) ReadFile(name string) ([]byte, error) {
	data, err := fs.ReadFile(f.FS, name)
	return f.alter(name, data), err
}

func (f alteredFS) ReadDir(name string) ([]fs.DirEntry, error) { return fs.ReadDir(f.FS, name) }
func (f alteredFS) Stat(name string) (fs.FileInfo, error)      { return fs.Stat(f.FS, name) }
func (f alteredFS) ReadLink(name string) (string, error)       { return fs.ReadLink(f.FS, name) }
func (f alteredFS) Lstat(name string) (fs.FileInfo, error)     { return fs.Lstat(f.FS, name) }

func newChanging(t *testing.T) *changing {
	t.Helper()
	c := &changing{besides: newBesides(t, "irqbalance"), online: "0-3", ready: make(chan struct{}, 1)}
	open := c.e.Open
	c.e.Open = func(name string) (*machine, error) {
		m, err := open(name)
		for _, h := range m.samples {
			h.FS = alteredFS{h.FS, c.altered}
		}
		return m, err
	}
	c.e.Service = service{
		Notify:  func(string) {},
		Hangups: func() (<-chan struct{}, func()) { return nil, func() {} },
		Events: func() (*host.Events, error) {
			return &host.Events{
				Ready: c.ready, Watch: func([]string) error { return nil }, Failed: func() error { return nil }, Close: func() error { return nil },
				Take: func() []host.Event {
					c.mu.Lock()
					defer c.mu.Unlock()
					out := c.pending
					c.pending = nil
					return out
				},
			}, nil
		},
	}
	return c
}

// leave is what a unit leaves that is killed at its first write of a profile.
func (c *changing) leave(file string) {
	c.t.Helper()
	m, err := c.e.Open("")
	if err != nil {
		c.t.Fatal(err)
	}
	profile, _, err := readProfile(file)
	if err != nil {
		c.t.Fatal(err)
	}
	p, _, err := profilePlan(m, profile, boot.Scope{HostOnly: true})
	if err != nil {
		c.t.Fatal(err)
	}
	a, err := applier(c.e, m, options{})
	if err != nil {
		c.t.Fatal(err)
	}
	a.Unattended, a.Owners = true, nil
	a.Writer.WriteFile = func(string, []byte) error { panic("killed") }
	defer func() {
		if recover() == nil {
			c.t.Error("nothing was cut short")
		}
	}()
	_, _ = a.Apply(context.Background(), p, apply.Options{MaxDisruption: knob.DisruptsLink})
}

// left is what the guard has left to others.
func (c *changing) left() []guarding.Left {
	c.t.Helper()
	data, err := c.e.Files.ReadFile(guardFile)
	if err != nil {
		c.t.Fatal(err)
	}
	var r guarding.Report
	if err := json.Unmarshal(data, &r); err != nil {
		c.t.Fatal(err)
	}
	return r.Left
}

// The whole guard, on a machine in memory: after a unit that was killed, with a
// device that is down at first, CPUs that come and go under a profile that leaves
// them to the host, and an irqbalance that begins anew.
func TestGuardThroughChanges(t *testing.T) {
	percent, limit := debug.SetGCPercent(100), debug.SetMemoryLimit(math.MaxInt64)
	t.Cleanup(func() { debug.SetGCPercent(percent); debug.SetMemoryLimit(limit) })
	c := newChanging(t)
	c.down = true
	c.memory.RunIrqbalance(3, 7)
	file := bootFile(t, `host: {net.core.netdev_budget: 600}
devices:
  - match: {name: eth0}
    optional: true
    settings: {channels.combined: solve, rx-*/irq.affinity: solve}
`)
	c.leave(file)
	ctx, stop := context.WithCancel(context.Background())
	var code int
	var stderr string
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		code, _, stderr = invoke(ctx, t, c.e, "guard", file)
	}()
	defer func() { stop(); <-ended }()

	ref := func(queue int) string { return fmt.Sprintf("eth0/rx-%d/irq.affinity", queue) }
	stand := func(what string, cpus ...string) {
		t.Helper()
		until(t, what, 20*time.Second, func() bool {
			for queue, cpu := range cpus {
				if c.read(ref(queue)) != cpu {
					return false
				}
			}
			return true
		})
		if got := c.read("eth0/channels.combined"); got != "4" {
			t.Errorf("%s: %s queues", what, got)
		}
	}
	balanced := []string{"0", "1", "2", "3"}
	until(t, "the rest stands while the device is down", 20*time.Second, func() bool { return c.read(besideBudget) == "600" })
	if got := c.read(ref(3)); got != "0" {
		t.Errorf("an interrupt of a device that is down was set to %s", got)
	}
	link := host.Event{Kind: host.LinkChanged, Dev: "eth0"}
	c.happen(func() { c.down = false }, link)
	stand("the device came up", balanced...)
	own := c.read(besideBanned)
	if !strings.HasPrefix(own, "3,7,") || strings.Count(own, ",") != 5 {
		t.Errorf("irqbalance leaves %s alone", own)
	}
	for range 2 {
		c.happen(func() { c.online = "0-2" }, host.Event{Kind: host.CPUChanged})
		stand("CPU 3 went", "0", "0", "1", "2")
		c.happen(func() { c.online = "0-3" }, host.Event{Kind: host.CPUChanged})
		stand("CPU 3 came", balanced...)
	}
	parsed, err := knob.ParseRef(ref(1))
	if err != nil {
		t.Fatal(err)
	}
	kind, _ := knob.Lookup(parsed.Kind)
	c.memory.RunIrqbalance(3, 7)
	if err := kind.Write(c.memory.View(), c.memory.Writer(), parsed, "0"); err != nil {
		t.Fatal(err)
	}
	c.happen(func() {}, host.Event{Kind: host.FileWritten, Path: kind.Files(c.memory.View(), parsed)[0], PID: 700, By: "irqbalance"})
	stand("irqbalance began anew", balanced...)
	until(t, "irqbalance is told again", 10*time.Second, func() bool { return c.read(besideBanned) == own })
	stop()
	<-ended
	// What it leaves it does not take up by itself.
	if left := c.left(); len(left) > 0 {
		t.Errorf("left %+v", left)
	}
	if code != exitDone || !strings.Contains(stderr, "was cut short and is undone") {
		t.Errorf("code %d\n%s", code, stderr)
	}
	t.Logf("the guard said:\n%s", stderr)
}
