// Package archive opens captured machines as host.Host: captures of napitune,
// plain folders and archives with proc/ and sys/ below them, and sosreports.
// It also records a running machine into a capture, scrubbed of addresses and
// names (Recorder).
//
// Everything opened is untrusted input: sizes are bounded, no path or link
// leaves the root, and damage gives one error. Opening reads the given file or
// folder and nothing else of the machine it runs on.
package archive

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/tree"
)

// Kinds of captured hosts.
const (
	KindCapture   = "capture"   // made by napitune
	KindSosreport = "sosreport" // outputs of commands, with or without proc/ and sys/
	KindTree      = "tree"      // proc/ and sys/ only
)

// Capture is one captured machine: its samples in time order.
type Capture struct {
	// Samples has at least one element. The FS of each is a *tree.Tree of its
	// own, and every function is set: what was not captured gives
	// host.ErrNotCaptured.
	Samples []*host.Host
	// Times are the times of the samples; zero where nothing tells. Where proc/uptime
	// and proc/stat do, they are right to 10 ms between samples.
	Times []time.Time
	Kind  string
	// Notes say what was skipped, doubled or derived, for people.
	Notes []string
	// Probes are the probe counters of each sample in the form in which they
	// were recorded; nil where there are none.
	Probes []json.RawMessage
	// Comment is the free text at the head of a capture.
	Comment string
}

// Open reads a captured machine. The form is decided by content: a folder, a
// tar archive or a text archive, the latter two plain or compressed with gzip,
// xz, zstd or bzip2. The host may be one folder down; folders t0, t1, … hold
// samples, and what is outside them belongs to all.
//
// It does not keep the file open. Errors name the path and what is wrong.
func Open(path string) (*Capture, error) {
	c, err := open(path, defaultLimits())
	if err != nil {
		return nil, fmt.Errorf("open captured host %s: %w", path, bare(err))
	}
	return c, nil
}

func open(path string, l limits) (*Capture, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		b := newBundle(l)
		if err := b.readFolder(path); err != nil {
			return nil, err
		}
		return b.capture()
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("neither a file nor a folder")
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	return read(file, l)
}

// Read is Open on the content of a file.
func Read(r io.Reader) (*Capture, error) {
	c, err := read(r, defaultLimits())
	if err != nil {
		return nil, fmt.Errorf("read captured host: %w", err)
	}
	return c, nil
}

func read(r io.Reader, l limits) (*Capture, error) {
	b, err := unpack(r, l)
	if err != nil {
		return nil, err
	}
	return b.capture()
}

// capture turns what was unpacked into hosts.
func (b *bundle) capture() (*Capture, error) {
	if b.recorded != nil {
		return b.replay()
	}
	samples, err := b.layout()
	if err != nil {
		return nil, err
	}
	c := &Capture{Kind: KindTree, Comment: b.comment}
	for _, s := range samples {
		h, sos := b.hostOf(s.files)
		if sos {
			c.Kind = KindSosreport
		}
		c.Samples = append(c.Samples, h)
		c.Times = append(c.Times, h.Now())
		c.Probes = append(c.Probes, nil)
	}
	c.Notes = b.allNotes()
	return c, nil
}

func (b *bundle) allNotes() []string {
	slices.Sort(b.notes)
	notes := slices.Compact(b.notes)
	if b.unnoted > 0 {
		notes = append(notes, fmt.Sprintf("… and %d notes more", b.unnoted))
	}
	return notes
}

// clock is the time of a tree: boot time plus time since boot. Zero if the
// files do not tell.
func clock(files fs.ReadFileFS) time.Time {
	uptime, err1 := files.ReadFile("proc/uptime")
	stat, err2 := files.ReadFile("proc/stat")
	if err1 != nil || err2 != nil {
		return time.Time{}
	}
	first, _, _ := strings.Cut(string(uptime), " ")
	since, err := time.ParseDuration(first + "s")
	if err != nil || since < 0 {
		return time.Time{}
	}
	for line := range strings.Lines(string(stat)) {
		text, ok := strings.CutPrefix(line, "btime ")
		if boot, err := strconv.ParseUint(strings.TrimSpace(text), 10, 40); ok && err == nil && boot > 0 {
			return time.Unix(int64(boot), 0).Add(since).UTC()
		}
	}
	return time.Time{}
}

// hostOf makes a host of the files of one sample, and reports whether it has
// outputs of commands.
func (b *bundle) hostOf(files *tree.Tree) (*host.Host, bool) {
	s := newSosreport(files)
	for _, note := range s.derive() {
		b.note("%s", note)
	}
	taken := clock(files)
	return &host.Host{
		FS:        files,
		Ident:     s.ident,
		Links:     s.links,
		Processes: s.processes,
		Ethtool:   s.ethtool(),
		Netdev: host.Netdev{
			NAPIs:  func() ([]host.NAPI, error) { return nil, notCaptured("netlink napi-get") },
			Queues: func() ([]host.Queue, error) { return nil, notCaptured("netlink queue-get") },
			QStats: func() ([]host.QStat, error) { return nil, notCaptured("netlink qstats-get") },
		},
		Now: func() time.Time { return taken },
	}, len(s.folders) > 0
}

func notCaptured(what string) error { return fmt.Errorf("%s: %w", what, host.ErrNotCaptured) }
