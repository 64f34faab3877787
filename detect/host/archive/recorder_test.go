package archive

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/tree"
)

// machine is a host in memory whose every answer can be set.
func machine(files *tree.Tree, now time.Time) *host.Host {
	stats := host.Stats{{Name: "rx_packets", Value: 1<<64 - 1}, {Name: "[0]: x", Value: 0}}
	on := true
	return &host.Host{
		FS:        files,
		Ident:     func() (host.Ident, error) { return host.Ident{Release: "6.18.0", HZ: 250, Virtualization: "kvm"}, nil },
		Links:     func() ([]host.Link, error) { return []host.Link{{Name: "eth0", Index: 2, Up: true, RxQueues: 8}}, nil },
		Processes: func() ([]host.Process, error) { return nil, nil },
		Ethtool: host.Ethtool{
			DriverInfo: func(dev string) (host.DriverInfo, error) {
				return host.DriverInfo{Driver: "virtio_net", Version: "1.0.0.1", Bus: "0000:00:03.0"}, nil
			},
			Channels: func(dev string) (host.Channels, error) {
				if dev == "gone" {
					return host.Channels{}, fmt.Errorf("ethtool -l %s: %w", dev, syscall.ENODEV)
				}
				return host.Channels{MaxCombined: 8, Combined: 4}, nil
			},
			Rings: func(string) (host.Rings, error) {
				return host.Rings{}, fmt.Errorf("rings: %w", errors.Join(host.ErrUnsupported, syscall.EOPNOTSUPP))
			},
			Coalesce: func(string) (host.Coalesce, error) {
				return host.Coalesce{AdaptiveRx: &on, Values: map[string]int{"rx-usecs": 8}}, nil
			},
			Features: func(string) (host.Features, error) {
				return host.Features{"rx-gro": {On: true, Requested: true}, "rx-lro": {Fixed: true}}, nil
			},
			RSS: func(string) (host.RSS, error) {
				return host.RSS{Table: []uint32{0, 1}, Function: "toeplitz", RxRings: 2}, nil
			},
			HashFields: func(dev, flow string) (string, error) { return "sdfn" + flow[:0], nil },
			Stats:      func(string) (host.Stats, error) { return stats, nil },
		},
		Netdev: host.Netdev{
			NAPIs:  func() ([]host.NAPI, error) { return []host.NAPI{{IfIndex: 2, ID: 8193, IRQ: -1}}, nil },
			Queues: func() ([]host.Queue, error) { return []host.Queue{{IfIndex: 2, NAPI: 8193}}, nil },
			QStats: func() ([]host.QStat, error) { return nil, fmt.Errorf("qstats-get: %w", fs.ErrPermission) },
		},
		Now: func() time.Time { return now },
	}
}

// errorClass is what callers may tell of an error.
func errorClass(err error) string {
	if err == nil {
		return ""
	}
	text := bare(err).Error()
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			text += " " + s.name
		}
	}
	return text
}

// ask asks everything about a name and returns the answers as text.
func ask(h *host.Host, name string) []string {
	var all []string
	say := func(what string, answer any, err error) {
		all = append(all, fmt.Sprintf("%s %s: %v %s", what, name, answer, errorClass(err)))
	}
	data, err := h.ReadFile(name)
	say("read", fmt.Sprintf("%q", data), err)
	entries, err := h.ReadDir(name)
	var list []string
	for _, e := range entries {
		list = append(list, e.Type().String()+e.Name())
	}
	say("list", list, err)
	target, err := h.ReadLink(name)
	say("link", target, err)
	say("stat", mode(fs.Stat(h.FS, name)), second(fs.Stat(h.FS, name)))
	say("lstat", mode(fs.Lstat(h.FS, name)), second(fs.Lstat(h.FS, name)))
	return all
}

func second[T any](_ T, err error) error { return err }

func mode(info fs.FileInfo, err error) string {
	if err != nil {
		return ""
	}
	return info.Mode().String()
}

// askCalls asks all other functions.
func askCalls(h *host.Host, dev string) []any {
	var all []any
	add := func(value any, err error) { all = append(all, value, errorClass(err)) }
	add2 := func(value any, err error) { add(value, err) }
	id, err := h.Ident()
	add2(id, err)
	links, err := h.Links()
	add2(links, err)
	processes, err := h.Processes()
	add2(processes, err)
	e := h.Ethtool
	driver, err := e.DriverInfo(dev)
	add2(driver, err)
	channels, err := e.Channels(dev)
	add2(channels, err)
	rings, err := e.Rings(dev)
	add2(rings, err)
	coalesce, err := e.Coalesce(dev)
	add2(coalesce, err)
	features, err := e.Features(dev)
	add2(features, err)
	rss, err := e.RSS(dev)
	add2(rss, err)
	fields, err := e.HashFields(dev, "udp4")
	add2(fields, err)
	stats, err := e.Stats(dev)
	add2(stats, err)
	napis, err := h.Netdev.NAPIs()
	add2(napis, err)
	queues, err := h.Netdev.Queues()
	add2(queues, err)
	qstats, err := h.Netdev.QStats()
	add2(qstats, err)
	return all
}

var oddContents = []string{
	"", "\n", "plain\n", "no newline", "two\nlines", "-- proc/x --\n", "a\n-- t0/x --\nb", "-- x --\r\n", "\r\n", "\x00\x01\xff", "tab\tü\n", " lead\n\n\n", "-- no marker\n",
}

// randomTree makes files, folders, links and failures.
func randomTree(random *rand.Rand) (*tree.Tree, []string) {
	t := tree.New()
	var names []string
	// Links keep their targets and files their places, or the tree would contradict itself.
	for i := range 60 {
		name := path.Join([]string{"proc", "sys/a", "sys/b/c"}[random.IntN(3)], fmt.Sprintf("f%d", i))
		names = append(names, name)
		switch random.IntN(7) {
		case 0:
			_ = t.Symlink(name, fmt.Sprintf("f%d", random.IntN(60)))
		case 1:
			_ = t.Symlink(name, "/sys/b")
			names = append(names, name+"/c", name+"/c/f3")
		case 2:
			_ = t.Fail(name, []error{syscall.EINVAL, fs.ErrPermission, fs.ErrNotExist, host.ErrUnsupported, syscall.EIO}[random.IntN(5)])
		case 3:
			_ = t.Mkdir(name + "/empty")
			names = append(names, name+"/empty", name+"/none")
		default:
			_ = t.WriteFile(name, []byte(oddContents[random.IntN(len(oddContents))]))
			_ = t.SetMode(name, []fs.FileMode{0o444, 0o644, 0o200}[random.IntN(3)])
		}
	}
	_ = t.WriteFile("proc/odd name\nwith lines", []byte("x\n"))
	return t, append(names, "proc", "sys", "sys/a", "sys/b", "sys/b/c", "nowhere/at/all", "proc/odd name\nwith lines", ".")
}

// TestRecordReplayIsIdentity asks random machines everything about random
// names, several times, and compares with the replay of the capture.
func TestRecordReplayIsIdentity(t *testing.T) {
	for seed := range uint64(40) {
		random := rand.New(rand.NewPCG(seed, 1))
		files, names := randomTree(random)
		start := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
		h := machine(files, start)
		r := NewRecorder(h)
		var asked [][]string
		var want [][]string
		var wantCalls [][]any
		var devices []string
		for sample := range 3 {
			h.Now = func() time.Time { return start.Add(time.Duration(sample) * time.Second) }
			if sample > 0 {
				r.NextSample()
				name := names[random.IntN(60)]
				_ = files.Remove(name)
				_ = files.WriteFile(name, []byte(fmt.Sprint(sample)))
			}
			recorded := r.Host()
			recorded.Now()
			var chosen, answers []string
			for _, name := range names {
				if random.IntN(4) > 0 {
					chosen = append(chosen, name)
					answers = append(answers, ask(recorded, name)...)
				}
			}
			asked, want = append(asked, chosen), append(want, answers)
			devices = append(devices, []string{"eth0", "gone"}[random.IntN(2)])
			wantCalls = append(wantCalls, askCalls(recorded, devices[sample]))
			if err := r.SetProbes(sample, json.RawMessage(fmt.Sprintf("{ \"n\": %d }", sample))); err != nil {
				t.Fatal(err)
			}
		}
		var text bytes.Buffer
		if err := r.Write(&text, "a comment\n-- of two lines --"); err != nil {
			t.Fatal(err)
		}
		c, err := Read(bytes.NewReader(text.Bytes()))
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, text.String())
		}
		for i, h := range c.Samples {
			var got []string
			for _, name := range asked[i] {
				got = append(got, ask(h, name)...)
			}
			if diff := cmp.Diff(want[i], got); diff != "" {
				t.Fatalf("seed %d, sample %d (-want +got):\n%s", seed, i, diff)
			}
			if diff := cmp.Diff(wantCalls[i], askCalls(h, devices[i]), cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("seed %d, sample %d: calls (-want +got):\n%s", seed, i, diff)
			}
			if want := start.Add(time.Duration(i) * time.Second); !h.Now().Equal(want) || !c.Times[i].Equal(want) {
				t.Errorf("time %v, want %v", h.Now(), want)
			}
			if want := fmt.Sprintf("{\"n\":%d}", i); strings.TrimSpace(string(c.Probes[i])) != want {
				t.Errorf("probes %s, want %s", c.Probes[i], want)
			}
		}
		if c.Kind != KindCapture || c.Comment != "a comment\n -- of two lines --\n" || len(c.Samples) != 3 {
			t.Errorf("kind %s, comment %q, %d samples", c.Kind, c.Comment, len(c.Samples))
		}
	}
}

// TestNeverAsked: what was not recorded is not captured, whatever the machine has.
func TestNeverAsked(t *testing.T) {
	files := tree.New()
	_ = files.WriteFile("proc/stat", []byte("x\n"))
	_ = files.WriteFile("sys/class/net/eth0/mtu", []byte("1500\n"))
	r := NewRecorder(machine(files, time.Time{}))
	_, _ = r.Host().ReadFile("sys/class/net/eth0/mtu")
	_, _ = r.Host().ReadFile("sys/class/net/eth0/speed")
	_, _ = r.Host().Ethtool.Channels("eth0")
	r.NextSample()
	_, _ = r.Host().ReadFile("proc/stat")
	c := rewrite(t, r)
	for what, err := range map[string]error{
		"file": second(c.Samples[0].ReadFile("proc/stat")), "listing": second(c.Samples[0].ReadDir("sys/class/net")),
		"stat": second(fs.Stat(c.Samples[0].FS, "sys/class/net/eth0")), "rings": second(c.Samples[0].Ethtool.Rings("eth0")),
		"device": second(c.Samples[0].Ethtool.Channels("eth1")), "flow": second(c.Samples[0].Ethtool.HashFields("eth0", "tcp4")),
		"forgotten file": second(c.Samples[1].ReadFile("sys/class/net/eth0/mtu")), "forgotten call": second(c.Samples[1].Ethtool.Channels("eth0")),
	} {
		if !errors.Is(err, host.ErrNotCaptured) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := c.Samples[0].ReadFile("sys/class/net/eth0/speed"); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, host.ErrNotCaptured) {
		t.Errorf("a file that was not there: %v", err)
	}
}

// rewrite writes what was recorded and reads it back.
func rewrite(t testing.TB, r *Recorder) *Capture {
	t.Helper()
	var text bytes.Buffer
	if err := r.Write(&text, ""); err != nil {
		t.Fatal(err)
	}
	c, err := Read(&text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestRecorderStandsAside: the reader gets what the machine says, also through Open.
func TestRecorderStandsAside(t *testing.T) {
	files := tree.New()
	_ = files.WriteFile("proc/net/dev", []byte("52:54:00:11:22:33\n"))
	_ = files.Symlink("proc/link", "net")
	r := NewRecorder(machine(files, time.Time{}))
	f, err := r.Host().FS.Open("proc/net/dev")
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(f)
	if err != nil || string(data) != "52:54:00:11:22:33\n" {
		t.Errorf("read %q, %v", data, err)
	}
	if err := fstest.TestFS(unshared{recordingFS{r}}, "proc/net/dev"); err != nil {
		t.Error(err)
	}
	if r.Host().Ethtool.DriverInfo == nil || NewRecorder(&host.Host{}).Host().Links == nil {
		t.Error("a function is missing")
	}
	if _, err := NewRecorder(&host.Host{}).Host().ReadFile("x"); !errors.Is(err, host.ErrNotCaptured) {
		t.Errorf("host without files: %v", err)
	}
	if err := r.SetProbes(1, nil); err == nil {
		t.Error("probes of a sample that is not there")
	}
	if err := r.SetProbes(0, json.RawMessage("{")); err == nil {
		t.Error("probes that are no JSON")
	}
}

// unshared gives the suite its own bytes: it scribbles over what ReadFile
// returns, which a Tree forbids.
type unshared struct{ recordingFS }

func (u unshared) ReadFile(name string) ([]byte, error) {
	data, err := u.recordingFS.ReadFile(name)
	return bytes.Clone(data), err
}

// TestEqualSamplesAreStoredOnce compares the size of one and of ten equal samples.
func TestEqualSamplesAreStoredOnce(t *testing.T) {
	files := tree.New()
	_ = files.WriteFile("proc/interrupts", bytes.Repeat([]byte("0 0 0 0\n"), 10000))
	r := NewRecorder(machine(files, time.Time{}))
	var sizes []int
	for range 10 {
		_, _ = r.Host().ReadFile("proc/interrupts")
		var text bytes.Buffer
		if err := r.Write(&text, ""); err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, text.Len())
		r.NextSample()
	}
	if sizes[9] > sizes[0]+200 {
		t.Errorf("one sample takes %d bytes, ten equal ones %d", sizes[0], sizes[9])
	}
}
