// Package hosttest is test support: a machine in memory whose settings can be
// written and which obeys named laws of the kernel (Memory), and a generator of
// synthetic machines of any size (Generate). It never touches the machine it
// runs on.
package hosttest

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/tree"
)

// Memory is a machine in memory: one or more samples of it in time order, and
// settings that all samples share. Writes change the settings and, by the laws
// of this package, what the later samples counted. It is strict: a write for
// which there is no law is an error. Several goroutines may use it.
type Memory struct {
	mu      sync.Mutex
	samples []*sample
	// What was written; a device that is absent here answers as its sample does.
	channels map[string]host.Channels
	rings    map[string]host.Rings
	coalesce map[string]host.Coalesce
	features map[string]host.Features
	rss      map[string]host.RSS
	hash     map[hashKey]string
	napis    []host.NAPI  // nil until written
	queues   []host.Queue // nil until written
	// userTable marks devices whose RSS table a user set (netif_is_rxfh_configured).
	userTable map[string]bool
	// managed maps interrupts that refuse to move to their error.
	managed map[int]error
	counts  *counters // parsed on first use
	// irqbalance is what a running one was told; nil if none runs.
	irqbalance *host.Irqbalance
}

type hashKey struct{ dev, flow string }

type sample struct {
	base *host.Host
	tree *tree.Tree
}

// NewMemory makes a machine from the samples of a host, oldest first. The
// samples themselves are not changed. Files are shared until they are written;
// the tree of a sample that is not a *tree.Tree is copied whole.
func NewMemory(samples []*host.Host) (*Memory, error) {
	if len(samples) == 0 {
		return nil, errors.New("make machine in memory: no samples")
	}
	m := &Memory{
		channels: map[string]host.Channels{}, rings: map[string]host.Rings{},
		coalesce: map[string]host.Coalesce{}, features: map[string]host.Features{},
		rss: map[string]host.RSS{}, hash: map[hashKey]string{},
		userTable: map[string]bool{}, managed: map[int]error{},
	}
	for i, h := range samples {
		if h == nil || h.FS == nil {
			return nil, fmt.Errorf("make machine in memory: sample %d has no files", i)
		}
		t, err := copyTree(h.FS)
		if err != nil {
			return nil, fmt.Errorf("make machine in memory: sample %d: %w", i, err)
		}
		m.samples = append(m.samples, &sample{base: h, tree: t})
	}
	return m, nil
}

// absent is a name that no machine has: asking for it shows whether a tree
// answers "not there" or "not captured".
const absent = "proc/napitune-asks-for-what-is-not-there"

func copyTree(from fs.FS) (*tree.Tree, error) {
	if t, ok := from.(*tree.Tree); ok {
		return t.Clone(), nil
	}
	to := tree.New()
	if _, err := fs.Stat(from, absent); errors.Is(err, host.ErrNotCaptured) {
		to.Missing = host.ErrNotCaptured
	}
	err := fs.WalkDir(from, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return to.Fail(name, err)
		case entry.Type() == fs.ModeSymlink:
			target, err := fs.ReadLink(from, name)
			if err != nil {
				return err
			}
			return to.Symlink(name, target)
		case entry.IsDir():
			return to.Mkdir(name)
		}
		return copyFile(to, from, name)
	})
	return to, err
}

func copyFile(to *tree.Tree, from fs.FS, name string) error {
	data, err := fs.ReadFile(from, name)
	if err != nil {
		return to.Fail(name, err)
	}
	if err := to.WriteFile(name, data); err != nil {
		return err
	}
	if info, err := fs.Stat(from, name); err == nil && info.Mode().Perm() != 0 {
		return to.SetMode(name, info.Mode())
	}
	return nil
}

// Samples is the number of samples.
func (m *Memory) Samples() int { return len(m.samples) }

// Host is one sample of the machine as it is now; later writes show through.
func (m *Memory) Host(i int) *host.Host {
	s := m.samples[i]
	h := *s.base
	h.FS = &settled{m: m, tree: s.tree}
	base := s.base.Ethtool
	h.Ethtool.Channels = overlay(m, m.channels, base.Channels, same[host.Channels])
	h.Ethtool.Rings = overlay(m, m.rings, base.Rings, same[host.Rings])
	h.Ethtool.Coalesce = overlay(m, m.coalesce, base.Coalesce, cloneCoalesce)
	h.Ethtool.Features = overlay(m, m.features, base.Features, maps.Clone[host.Features])
	h.Ethtool.RSS = overlay(m, m.rss, base.RSS, cloneRSS)
	h.Ethtool.HashFields = func(dev, flow string) (string, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.hashFields(s, dev, flow)
	}
	h.Irqbalance = m.askIrqbalance
	h.Netdev.NAPIs = func() ([]host.NAPI, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		return list(m.napis, s.base.Netdev.NAPIs)
	}
	h.Netdev.Queues = func() ([]host.Queue, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		return list(m.queues, s.base.Netdev.Queues)
	}
	return &h
}

// Hosts is every sample as a host.
func (m *Memory) Hosts() []*host.Host {
	out := make([]*host.Host, len(m.samples))
	for i := range out {
		out[i] = m.Host(i)
	}
	return out
}

// last is the newest sample: the one whose settings are the present ones.
func (m *Memory) last() *sample { return m.samples[len(m.samples)-1] }

// Manage makes an interrupt refuse every affinity write with err, as
// interrupts with kernel-managed affinity do: EIO up to kernel 6.11, EPERM and
// a file of mode 0444 since (kernel/irq/proc.c).
func (m *Memory) Manage(irq int, err error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.managed[irq] = err
	if !errors.Is(err, fs.ErrPermission) {
		return nil
	}
	for _, s := range m.samples {
		for _, file := range affinityFiles {
			name := irqFile(irq, file)
			if _, err := s.tree.Stat(name); err != nil {
				continue
			}
			if err := s.tree.SetMode(name, 0o444); err != nil {
				return err
			}
		}
	}
	return nil
}

func same[T any](v T) T { return v }

func cloneCoalesce(c host.Coalesce) host.Coalesce {
	c.Values = maps.Clone(c.Values)
	c.AdaptiveRx, c.AdaptiveTx = cloneBool(c.AdaptiveRx), cloneBool(c.AdaptiveTx)
	return c
}

func cloneBool(b *bool) *bool {
	if b == nil {
		return nil
	}
	v := *b
	return &v
}

func cloneRSS(r host.RSS) host.RSS {
	r.Table, r.Key = slices.Clone(r.Table), slices.Clone(r.Key)
	return r
}

func overlay[T any](m *Memory, written map[string]T, base func(string) (T, error), clone func(T) T) func(string) (T, error) {
	return func(dev string) (T, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		return lookup(written, base, clone, dev)
	}
}

func lookup[T any](written map[string]T, base func(string) (T, error), clone func(T) T, dev string) (T, error) {
	if v, ok := written[dev]; ok {
		return clone(v), nil
	}
	if base == nil {
		var zero T
		return zero, host.ErrNotCaptured
	}
	v, err := base(dev)
	return clone(v), err
}

func list[T any](written []T, base func() ([]T, error)) ([]T, error) {
	if written != nil {
		return slices.Clone(written), nil
	}
	if base == nil {
		return nil, host.ErrNotCaptured
	}
	v, err := base()
	return slices.Clone(v), err
}

func (m *Memory) hashFields(s *sample, dev, flow string) (string, error) {
	if fields, ok := m.hash[hashKey{dev, flow}]; ok {
		return fields, nil
	}
	if s.base.Ethtool.HashFields == nil {
		return "", host.ErrNotCaptured
	}
	return s.base.Ethtool.HashFields(dev, flow)
}

// settled is a tree whose counter files are brought up to date before they are
// read: rewriting /proc/interrupts of a large machine after every single
// write would be far too slow.
type settled struct {
	m    *Memory
	tree *tree.Tree
}

func settle[T any](s *settled, read func() (T, error)) (T, error) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if err := s.m.flush(); err != nil {
		var zero T
		return zero, err
	}
	return read()
}

func (s *settled) Open(name string) (fs.File, error) {
	return settle(s, func() (fs.File, error) { return s.tree.Open(name) })
}

func (s *settled) ReadFile(name string) ([]byte, error) {
	return settle(s, func() ([]byte, error) { return s.tree.ReadFile(name) })
}

func (s *settled) ReadDir(name string) ([]fs.DirEntry, error) {
	return settle(s, func() ([]fs.DirEntry, error) { return s.tree.ReadDir(name) })
}

func (s *settled) Stat(name string) (fs.FileInfo, error) {
	return settle(s, func() (fs.FileInfo, error) { return s.tree.Stat(name) })
}

func (s *settled) Lstat(name string) (fs.FileInfo, error) {
	return settle(s, func() (fs.FileInfo, error) { return s.tree.Lstat(name) })
}

func (s *settled) ReadLink(name string) (string, error) {
	return settle(s, func() (string, error) { return s.tree.ReadLink(name) })
}
