package apply

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/hosttest"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/detect/owner"
	"github.com/napitune/napitune/rules/plan"
)

const (
	testBoot = "11111111-2222-4333-8444-555555555555"
	testDir  = "run/napitune"
)

var errKilled = errors.New("the process is gone")

// fuse ends a process at one of its lasting steps: journal records, renamings
// and kernel writes. After it has blown, nothing the process does lasts.
type fuse struct {
	mu    sync.Mutex
	steps int
	at    int  // the step that blows it; 0 never
	after bool // the step itself still happens
	torn  int  // with a record: this many bytes of it happen; -1 for none or all
	dead  bool
	// log names the steps, for messages.
	log []string
}

func (f *fuse) step(name string, whole func() error, part func(n int)) error {
	if f == nil {
		return whole()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return errKilled
	}
	f.steps++
	f.log = append(f.log, name)
	if f.at == 0 || f.steps != f.at {
		return whole()
	}
	f.dead = true
	switch {
	case f.torn >= 0 && part != nil:
		part(f.torn)
	case f.after:
		if err := whole(); err != nil {
			return err
		}
	}
	return errKilled
}

// memDisk is a file system in memory that outlives the processes that use it.
type memDisk struct {
	mu    sync.Mutex
	files map[string][]byte
	// full makes the appends from this one on fail, after writing so many bytes.
	full, fullAfter int
	appends         int
	locks           map[string]string
}

func newDisk() *memDisk { return &memDisk{files: map[string][]byte{}, locks: map[string]string{}} }

var errNoSpace = errors.New("no space left on device")

// process gives the disk as one process sees it: its locks go with it.
func (d *memDisk) process(f *fuse) Files {
	return Files{
		MkdirAll: func(string) error { return nil },
		ReadDir: func(dir string) ([]string, error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			var out []string
			for name := range d.files {
				if path.Dir(name) == dir {
					out = append(out, path.Base(name))
				}
			}
			slices.Sort(out)
			if out == nil {
				return nil, fs.ErrNotExist
			}
			return out, nil
		},
		ReadFile: func(name string) ([]byte, error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			data, ok := d.files[name]
			if !ok {
				return nil, fs.ErrNotExist
			}
			return slices.Clone(data), nil
		},
		Append: func(name string, data []byte) error {
			put := func(data []byte) {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.files[name] = append(d.files[name], data...)
			}
			return f.step("append "+strings.TrimSpace(string(data)), func() error {
				d.mu.Lock()
				d.appends++
				full := d.full > 0 && d.appends >= d.full
				d.mu.Unlock()
				if full {
					put(data[:min(d.fullAfter, len(data))])
					return errNoSpace
				}
				put(data)
				return nil
			}, func(n int) { put(data[:min(n, len(data))]) })
		},
		Rename: func(from, to string) error {
			return f.step("rename "+from, func() error {
				d.mu.Lock()
				defer d.mu.Unlock()
				data, ok := d.files[from]
				if !ok {
					return fs.ErrNotExist
				}
				delete(d.files, from)
				d.files[to] = data
				return nil
			}, nil)
		},
		Remove: func(name string) error {
			return f.step("remove "+name, func() error {
				d.mu.Lock()
				defer d.mu.Unlock()
				if _, ok := d.files[name]; !ok {
					return fs.ErrNotExist
				}
				delete(d.files, name)
				return nil
			}, nil)
		},
		Held: func(name string) (string, bool, error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			holder, held := d.locks[name]
			return holder, held, nil
		},
		Lock: func(name, holder string) (func() error, error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			if other, ok := d.locks[name]; ok {
				return nil, fmt.Errorf("%w: %s", ErrLocked, other)
			}
			d.locks[name] = holder
			return func() error {
				d.mu.Lock()
				defer d.mu.Unlock()
				delete(d.locks, name)
				return nil
			}, nil
		},
	}
}

// journals are the names of the journals of a suffix.
func (d *memDisk) journals(suffix string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for name := range d.files {
		if strings.HasSuffix(name, suffix) {
			out = append(out, name)
		}
	}
	return out
}

// rig is a machine with a disk.
type rig struct {
	t    testing.TB
	m    *hosttest.Memory
	disk *memDisk
	// origin changes what the machine says it is.
	origin func(plan.Origin) plan.Origin
	gate   func(what string, do func() error) error
	view   func(knob.View) knob.View
	owners func() ([]owner.Owner, error)
}

func newRig(t testing.TB, spec hosttest.Spec) *rig {
	t.Helper()
	samples, err := hosttest.Generate(spec)
	if err != nil {
		t.Fatal(err)
	}
	r := rigOf(t, samples)
	r.view = asDetected
	return r
}

// asDetected is the view that the command has of a host. The machine's own finds
// interrupts in a way of its own, and more of them.
func asDetected(v knob.View) knob.View {
	s, err := detect.Collect(v.Host)
	if err != nil {
		return v
	}
	seen := s.View()
	seen.Host = v.Host
	return seen
}

func rigOf(t testing.TB, samples []*host.Host) *rig {
	t.Helper()
	m, err := hosttest.NewMemory(samples)
	if err != nil {
		t.Fatal(err)
	}
	m.RunIrqbalance(irqbalanceHas...)
	return &rig{t: t, m: m, disk: newDisk()}
}

// irqbalanceHas is what the irqbalance of every rig leaves alone at first.
var irqbalanceHas = []int{3, 7}

func (r *rig) where() (plan.Origin, error) {
	v := r.m.View()
	o := plan.Origin{BootID: testBoot, Release: "6.12.0"}
	for _, d := range v.Devices {
		one := plan.OriginDevice{Name: d.Name, Driver: d.Driver, Queues: max(d.RxQueues, d.TxQueues)}
		if read := v.Host.Ethtool.DriverInfo; read != nil {
			if info, err := read(d.Name); err == nil {
				one.Bus = info.Bus
			}
		}
		one.Index, _ = ifIndex(v.Host, d.Name)
		o.Devices = append(o.Devices, one)
	}
	if r.origin != nil {
		o = r.origin(o)
	}
	return o, nil
}

// process is a napitune on the machine. Its writes pass the rig's gate, then
// the fuse.
func (r *rig) process(f *fuse) *Applier {
	writer := hosttest.Gate(r.m.Writer(), func(what string, do func() error) error {
		if r.gate == nil {
			return f.step(what, do, nil)
		}
		return r.gate(what, func() error { return f.step(what, do, nil) })
	})
	return &Applier{
		Machine: Machine{
			View: func() (knob.View, error) {
				if r.view != nil {
					return r.view(r.m.View()), nil
				}
				return r.m.View(), nil
			},
			Origin: r.where, Writer: writer, Owners: r.owners,
		},
		Files: r.disk.process(f), Dir: testDir, History: "var/lib/napitune/history.jsonl", Holder: "napitune apply, PID 4711",
		Now: func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) },
	}
}

// plan makes a plan of settings and values: "eth0/ring.rx", "1024", …
func (r *rig) plan(pairs ...string) plan.Plan {
	r.t.Helper()
	origin, _ := r.where()
	p := plan.Plan{Fingerprint: origin.Fingerprint(), Origin: &origin, Profile: "test", Applyable: true, Complete: true}
	v := r.m.View()
	for i := 0; i < len(pairs); i += 2 {
		ref, err := knob.ParseRef(pairs[i])
		if err != nil {
			r.t.Fatal(err)
		}
		kind, _ := knob.Lookup(ref.Kind)
		p.Changes = append(p.Changes, plan.Change{Seq: i/2 + 1, Ref: ref, Before: kind.Read(v, ref).Value, After: pairs[i+1], Why: "test"})
	}
	return p
}

func (r *rig) read(text string) string {
	r.t.Helper()
	ref, err := knob.ParseRef(text)
	if err != nil {
		r.t.Fatal(err)
	}
	kind, _ := knob.Lookup(ref.Kind)
	state := kind.Read(r.m.View(), ref)
	if !state.Has() {
		return state.Status.String()
	}
	return state.Value
}

// write is somebody else's write.
func (r *rig) write(text, value string) {
	r.t.Helper()
	ref, err := knob.ParseRef(text)
	if err != nil {
		r.t.Fatal(err)
	}
	kind, _ := knob.Lookup(ref.Kind)
	if err := kind.Write(r.m.View(), r.m.Writer(), ref, value); err != nil {
		r.t.Fatal(err)
	}
}

// anything allows every change.
var anything = Options{MaxDisruption: knob.DisruptsLink}

// Vectors and NAPIs that are made anew have new numbers; the settings by queue
// are in the dump besides.
var numbered = regexp.MustCompile(`(?m)^(/proc/irq/|napi ).*\n`)

func (r *rig) dump(renumbered bool) string {
	text := r.m.Dump()
	if renumbered {
		return numbered.ReplaceAllString(text, "")
	}
	return text
}

// candidate is another value that the host should take, "" for none.
func candidate(rng *rand.Rand, v knob.View, kind *knob.Kind, ref knob.Ref) (before, after string, ok bool) {
	state := kind.Read(v, ref)
	if state.Status != knob.Known {
		return "", "", false
	}
	for range 8 {
		value := guess(rng, kind, state)
		canonical, err := kind.Codec.Canonical(value)
		if err == nil && canonical != state.Value && kind.Check(state.Bounds, canonical) == nil {
			return state.Value, canonical, true
		}
	}
	return "", "", false
}

func guess(rng *rand.Rand, kind *knob.Kind, state knob.State) string {
	switch kind.Codec.Name {
	case "integer":
		if state.Bounds.Max > 0 && state.Bounds.Max <= 256 {
			return strconv.FormatInt(state.Bounds.Min+rng.Int64N(state.Bounds.Max-state.Bounds.Min+1), 10)
		}
		return []string{"1", "20", "64", "100", "512", "1000", "1024", "2048", "16000"}[rng.IntN(9)]
	case "switch":
		return []string{"on", "off"}[rng.IntN(2)]
	case "queues":
		return []string{"", "0", "1", "0-1", "2-3"}[rng.IntN(5)]
	case "cpus":
		may, err := cpuset.ParseList(state.Bounds.CPUs)
		if err != nil || may.IsEmpty() {
			return ""
		}
		var some []int
		for cpu := range may.All() {
			if rng.IntN(3) == 0 {
				some = append(some, cpu)
			}
		}
		return cpuset.Of(some...).String()
	case "table":
		slots := make([]uint32, state.Bounds.Slots)
		for i := range slots {
			slots[i] = uint32(rng.Int64N(state.Bounds.Max + 1))
		}
		return knob.FormatTable(slots)
	case "irqs":
		return []string{"", "0,3,7", "45", "7,24,25,26"}[rng.IntN(4)]
	default:
		return []string{"sd", "sdfn"}[rng.IntN(2)]
	}
}

// randomPlan changes about one in share settings, each interrupt once.
func (r *rig) randomPlan(rng *rand.Rand, share int, wanted func(*knob.Kind) bool) plan.Plan {
	p := r.plan()
	v := r.m.View()
	taken := map[string]bool{}
	for _, kind := range knob.All() {
		if !wanted(kind) {
			continue
		}
		for _, ref := range kind.Refs(v) {
			at := address(v, ref)
			if rng.IntN(share) != 0 || taken[at] {
				continue
			}
			before, after, ok := candidate(rng, v, kind, ref)
			if !ok {
				continue
			}
			taken[at] = true
			p.Changes = append(p.Changes, plan.Change{Seq: len(p.Changes) + 1, Ref: ref, Before: before, After: after})
		}
	}
	return p
}

func every(*knob.Kind) bool { return true }

// specs are machines of several drivers.
func specs() map[string]hosttest.Spec {
	return map[string]hosttest.Spec{
		"virtio":       {CPUs: 4, QueuesPerNIC: 2, MaxQueues: 4},
		"virtio rings": {CPUs: 4, QueuesPerNIC: 4, VirtioFeatures: []int{40, 52, 53}, IRQStacked: true},
		"virtio spare": {CPUs: 4, QueuesPerNIC: 1, MaxQueues: 4, IRQStacked: true},
		"virtio one":   {CPUs: 2, QueuesPerNIC: 1, NICs: 2},
		"i40e":         {CPUs: 8, Driver: "i40e", QueuesPerNIC: 4, MaxQueues: 8, Nodes: 2},
		"ice":          {CPUs: 8, Driver: "ice", QueuesPerNIC: 4, MaxQueues: 8, NICs: 2, SMT: 2},
		"mlx5":         {CPUs: 8, Driver: "mlx5_core", QueuesPerNIC: 8, Isolated: "4-7"},
		"ixgbe":        {CPUs: 4, Driver: "ixgbe", QueuesPerNIC: 4, IRQStacked: true},
	}
}

func eachSpec(t *testing.T, do func(t *testing.T, spec hosttest.Spec)) {
	all := specs()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			do(t, all[name])
		})
	}
}
