package probes

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/napitune/napitune/probes/counters"
)

// setOffload is ethtool -K for one of the old commands (include/uapi/linux/ethtool.h).
func setOffload(t testing.TB, device string, command, value uint32) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	request := struct{ command, value uint32 }{command, value}
	var ifr struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		pad  [16]byte
	}
	copy(ifr.name[:], device)
	ifr.data = unsafe.Pointer(&request)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr))); errno != 0 {
		t.Fatalf("ethtool command %#x on %s: %v", command, device, errno)
	}
}

const (
	ethtoolSetTSO = 0x1f // ETHTOOL_STSO
	ethtoolSetGRO = 0x2c // ETHTOOL_SGRO
)

// twoNamespaces is a veth pair with an end in each: addresses 198.18.0.1 here
// and 198.18.0.2 there. The thread stays here.
type twoNamespaces struct {
	here, there netns.NsHandle
	device      pair
}

func makeTwoNamespaces(t testing.TB) twoNamespaces {
	t.Helper()
	inNamespace(t, lastCPU())
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	here, err := netns.Get()
	must(err)
	there, err := netns.New() // moves this thread
	must(err)
	must(netns.Set(here))
	t.Cleanup(func() { _ = here.Close(); _ = there.Close() })
	n := twoNamespaces{here: here, there: there, device: makePair(t, 0)}
	address := func(l netlink.Link, cidr string) {
		t.Helper()
		a, err := netlink.ParseAddr(cidr)
		must(err)
		must(netlink.AddrAdd(l, a))
	}
	must(netlink.LinkSetNsFd(n.device.in, int(there)))
	address(n.device.out, "198.18.0.1/24")
	n.inside(t, there, func() {
		address(n.device.in, "198.18.0.2/24")
		must(netlink.LinkSetUp(n.device.in))
	})
	time.Sleep(100 * time.Millisecond) // carrier
	return n
}

func (n twoNamespaces) inside(t testing.TB, ns netns.NsHandle, do func()) {
	t.Helper()
	if err := netns.Set(ns); err != nil {
		t.Fatal(err)
	}
	do()
	if err := netns.Set(n.here); err != nil {
		t.Fatal(err)
	}
}

// netstatTotals are the protocol counters of this thread's namespace.
func netstatTotals(t testing.TB) map[string]uint64 {
	t.Helper()
	out := map[string]uint64{}
	for _, name := range []string{"/proc/thread-self/net/netstat", "/proc/thread-self/net/snmp"} {
		lines := fileLines(t, name)
		for i := 0; i+1 < len(lines); i += 2 {
			names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
			for j := 1; j < len(names) && j < len(values); j++ {
				n, err := strconv.ParseInt(values[j], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				out[strings.TrimSuffix(names[0], ":")+"."+names[j]] = uint64(n)
			}
		}
	}
	return out
}

// TestGRORatio sends bulk TCP without segmentation offload, so that the
// receiving veth has something to merge, and UDP, and compares with the netstat
// method: what GRO merged, and how much of it all was TCP.
func TestGRORatio(t *testing.T) {
	needRoot(t)
	n := makeTwoNamespaces(t)
	setOffload(t, n.device.out.Attrs().Name, ethtoolSetTSO, 0)
	var listener net.Listener
	var udp net.PacketConn
	n.inside(t, n.there, func() {
		var err error
		if listener, err = net.Listen("tcp4", "198.18.0.2:9001"); err != nil {
			t.Fatal(err)
		}
		if udp, err = net.ListenPacket("udp4", "198.18.0.2:9002"); err != nil {
			t.Fatal(err)
		}
	})
	defer listener.Close()
	defer udp.Close()
	s := openSession(t, Options{Probes: []string{"gro"}, PacketsPerJiffy: 1_000_000, MaxCostPercent: 100})
	requireAttached(t, s, "gro")
	for _, tt := range []struct {
		name  string
		gro   uint32
		bytes int64
	}{
		{"merging", 1, 64 << 20},
		{"without GRO", 0, 16 << 20},
	} {
		var before, after map[string]uint64
		n.inside(t, n.there, func() {
			setOffload(t, n.device.in.Attrs().Name, ethtoolSetGRO, tt.gro)
			before = netstatTotals(t)
		})
		// The window covers both transfers, so both methods see the same packets.
		d := throughWindow(t, s, func() {
			transfer(t, listener, tt.bytes)
			datagrams(t, 4000)
		})
		n.inside(t, n.there, func() { after = netstatTotals(t) })
		for name := range after {
			after[name] -= before[name]
		}
		i := slices.IndexFunc(d.GRO, func(g counters.GRO) bool { return g.Device == n.device.in.Attrs().Name })
		if i < 0 {
			t.Fatalf("%s: no GRO row for %s in %+v", tt.name, n.device.in.Attrs().Name, d.GRO)
		}
		t.Log(tt.name)
		compareGRO(t, d.GRO[i], after, tt.gro == 1)
		if w := d.Windows[0]; w.SwitchedOff != 0 || w.Overflow != 0 || w.AttachedNs == 0 {
			t.Errorf("window %+v", w)
		}
	}
}

// TestTCPShare receives packets as a driver without GRO makes them: nobody has
// said yet where their headers are. A veth cannot stand for it, for its packets
// remember what the sender wrote.
func TestTCPShare(t *testing.T) {
	needRoot(t)
	inNamespace(t, lastCPU())
	const tcp, udp, liveFrames = 6, 17, 2 // BPF_F_TEST_XDP_LIVE_FRAMES
	pass := spinningXDP(t, 0)
	s := openSession(t, Options{Probes: []string{"gro"}, PacketsPerJiffy: 1_000_000, MaxCostPercent: 100})
	requireAttached(t, s, "gro")
	for _, tt := range []struct {
		name     string
		version  int
		protocol byte
		want     uint64
	}{
		{"TCP", 4, tcp, 500}, {"UDP", 4, udp, 0}, {"TCP over IPv6", 6, tcp, 500}, {"UDP over IPv6", 6, udp, 0},
	} {
		const packets = 500
		d := throughWindow(t, s, func() {
			// Received by lo, the device of frames that name none.
			_, err := pass.Run(&ebpf.RunOptions{Data: frameOf(tt.version, tt.protocol), Repeat: packets, Flags: liveFrames})
			if err != nil {
				skipBefore(t, 5, 18, fmt.Sprintf("receiving frames of our own: %v", err))
			}
		})
		here := thisNamespace(t)
		i := slices.IndexFunc(d.GRO, func(g counters.GRO) bool { return g.Device == "lo" && g.NetNS == here })
		if i < 0 {
			t.Fatalf("%s: no row for lo in %+v", tt.name, d.GRO)
		}
		if g := d.GRO[i]; g.Delivered != packets || g.TCPSegments != tt.want {
			t.Errorf("%s: %d packets, %d of them TCP, want %d and %d", tt.name, g.Delivered, g.TCPSegments, packets, tt.want)
		}
	}
}

// frameOf is a small packet of an IP version and protocol, for nobody.
func frameOf(version int, protocol byte) []byte {
	frame := udpFrame()
	if version == 4 {
		frame[14+9] = protocol
		return frame
	}
	frame = append(frame, make([]byte, 20)...) // of the longer header
	copy(frame[12:], []byte{0x86, 0xdd, 0x60, 0, 0, 0, 0, 26, protocol, 64})
	return frame
}

// throughWindow does something while the window of the GRO probe is open.
func throughWindow(t testing.TB, s *Session, do func()) *counters.Counters {
	t.Helper()
	first, err := s.Read()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	window := openWindow(ctx, t, s, "gro")
	do()
	stop()
	if err := <-window; err != nil {
		t.Fatal(err)
	}
	last, err := s.Read()
	if err != nil {
		t.Fatal(err)
	}
	d, err := last.Sub(first)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// compareGRO holds a device's row against what its namespace counted meanwhile.
func compareGRO(t *testing.T, g counters.GRO, netstat map[string]uint64, merging bool) {
	t.Helper()
	wire, skbs, ok := counters.NetstatGRO(netstat)
	if !ok {
		t.Fatal("netstat saw no packet")
	}
	want := float64(wire) / float64(skbs)
	ratios := map[string]float64{}
	ratios["delivered"], _ = g.DeliveredRatio()
	if merging {
		ratios["verdicts"], _ = g.Ratio()
	}
	notTCP := netstat["Udp.InDatagrams"] + netstat["Udp.InErrors"] + netstat["Udp.NoPorts"]
	t.Logf("netstat %d/%d = %.2f, %d of UDP; verdicts %d in, %d merged; delivered %d/%d, TCP %d; ratios %v",
		wire, skbs, want, notTCP, g.In, g.Merged, g.Segments, g.Delivered, g.TCPSegments, ratios)
	for name, got := range ratios {
		if math.Abs(got-want) > want/100 {
			t.Errorf("ratio by %s = %.3f, netstat says %.3f", name, got, want)
		}
	}
	if merging != (want >= 2) || !merging && g.In > 0 {
		t.Errorf("ratio %.2f, %d packets into GRO: not what was to be tested", want, g.In)
	}
	if tcp := float64(wire - notTCP); math.Abs(float64(g.TCPSegments)-tcp) > tcp/100 || notTCP*20 < wire {
		t.Errorf("%d of %d segments are TCP, want %.0f and at least a twentieth UDP", g.TCPSegments, g.Segments, tcp)
	}
	if g.SegmentsPerSKB.Count() != g.Delivered {
		t.Errorf("histogram holds %d of %d skbs", g.SegmentsPerSKB.Count(), g.Delivered)
	}
}

// datagrams sends small UDP packets from this thread's namespace, read or not.
func datagrams(t testing.TB, packets int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for range packets {
		if err := unix.Sendto(fd, make([]byte, 18), 0, &unix.SockaddrInet4{Port: 9002, Addr: [4]byte{198, 18, 0, 2}}); err != nil {
			t.Fatal(err)
		}
	}
}

// asked is a context that tells when somebody looks whether it has ended.
type asked struct {
	context.Context
	once sync.Once
	told chan struct{}
}

func (a *asked) Err() error {
	a.once.Do(func() { close(a.told) })
	return a.Context.Err()
}

// openWindow opens the window of a probe and returns when all its programs are
// attached, after which Window looks at its context for the first time; the
// channel says how it closed.
func openWindow(ctx context.Context, t testing.TB, s *Session, name string) <-chan error {
	t.Helper()
	window := make(chan error, 1)
	a := &asked{Context: ctx, told: make(chan struct{})}
	go func() { window <- s.Window(a, name, time.Minute) }()
	select {
	case <-a.told:
	case err := <-window:
		t.Fatalf("the window closed at once: %v", err)
	case <-time.After(time.Minute):
		t.Fatalf("the programs of %s were not attached", name)
	}
	return window
}

// transfer sends bytes to the listener over TCP, from this thread's namespace.
func transfer(t testing.TB, listener net.Listener, bytes int64) {
	t.Helper()
	received := make(chan int64, 1)
	go func() {
		c, err := listener.Accept()
		if err != nil {
			received <- -1
			return
		}
		defer c.Close()
		n, _ := io.Copy(io.Discard, c)
		received <- n
	}()
	file := os.NewFile(uintptr(connect(t)), "transfer")
	block := make([]byte, 1<<18)
	for left := bytes; left > 0; {
		w, err := file.Write(block[:min(left, int64(len(block)))])
		if err != nil {
			t.Fatal(err)
		}
		left -= int64(w)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if got := <-received; got != bytes {
		t.Fatalf("received %d bytes of %d", got, bytes)
	}
}

// TestBrake: a per-packet probe gives up above its rate, and says so.
func TestBrake(t *testing.T) {
	needRoot(t)
	inNamespace(t, lastCPU())
	p := makePair(t, 0)
	b := newBurster(t, 200, []pair{p})
	b.send(t)
	s := openSession(t, Options{Probes: []string{"gro"}, PacketsPerJiffy: 50})
	requireAttached(t, s, "gro")
	began := time.Now()
	window := openWindow(t.Context(), t, s, "gro")
	b.send(t)
	if err := <-window; err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the window stayed open for %v after the probe had switched itself off", took)
	}
	c, err := s.Read()
	if err != nil {
		t.Fatal(err)
	}
	w := c.Windows[0]
	if w.SwitchedOff == 0 || w.Skipped == 0 || w.Events > 2*50+20 {
		t.Errorf("window = %+v, want it switched off after 50 events in a jiffy", w)
	}
	t.Logf("%d events counted, %d skipped", w.Events, w.Skipped)
}

// connect opens a connection from this thread's namespace to a listener of the
// other one. The net package might use another thread.
func connect(t testing.TB) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 9001, Addr: [4]byte{198, 18, 0, 2}}); err != nil {
		t.Fatal(err)
	}
	return fd
}

// TestLatency: both halves of the path are seen for sockets that are read.
func TestLatency(t *testing.T) {
	needRoot(t)
	for _, name := range []string{"sk_data_ready", "sock_recv_length"} {
		if !hasTracepoint(t, name) {
			skipBefore(t, 6, 4, "this kernel has no sock:"+name)
		}
	}
	s := openSession(t, Options{Probes: []string{"latency"}})
	requireAttached(t, s, "latency")
	n := makeTwoNamespaces(t)
	var listener net.Listener
	n.inside(t, n.there, func() {
		var err error
		if listener, err = net.Listen("tcp4", "198.18.0.2:9001"); err != nil {
			t.Fatal(err)
		}
	})
	defer listener.Close()
	first, err := s.Read()
	if err != nil {
		t.Fatal(err)
	}
	transfer(t, listener, 32<<20)
	last, err := s.Read()
	if err != nil {
		t.Fatal(err)
	}
	d, err := last.Sub(first)
	if err != nil {
		t.Fatal(err)
	}
	var poll, read counters.Hist
	for _, l := range d.Latency {
		poll, read = poll.Merge(l.PollToSocketNs), read.Merge(l.SocketToReadNs)
	}
	if poll.Count() == 0 || read.Count() == 0 {
		t.Fatalf("poll to socket %d, socket to read %d samples", poll.Count(), read.Count())
	}
	pollP50, _ := poll.AtMost(0.5)
	readP50, _ := read.AtMost(0.5)
	t.Logf("poll to socket %d samples, median below %d ns; socket to read %d, below %d ns",
		poll.Count(), pollP50, read.Count(), readP50)
	if mean, _ := poll.Mean(); mean > 1e7 {
		t.Errorf("poll to socket takes %.0f ns on average", mean)
	}
	const pause = 50 * time.Millisecond
	first = last
	readLate(t, listener, 4*latencyOneIn, pause)
	if last, err = s.Read(); err != nil {
		t.Fatal(err)
	}
	if d, err = last.Sub(first); err != nil {
		t.Fatal(err)
	}
	var late counters.Hist
	for _, l := range d.Latency {
		late = late.Merge(l.SocketToReadNs)
	}
	bucket := counters.Bucket(uint64(pause))
	if bucket >= len(late.Buckets) || late.Buckets[bucket] == 0 {
		t.Errorf("nobody waited for a reader that sleeps %v: %v, want some in bucket %d", pause, late.Buckets, bucket)
	}
}

// readLate sends single bytes over a connection, each read after a pause.
func readLate(t testing.TB, listener net.Listener, bytes int, pause time.Duration) {
	t.Helper()
	fd := connect(t)
	defer unix.Close(fd)
	c, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	one := make([]byte, 1)
	for range bytes {
		if _, err := unix.Write(fd, one); err != nil {
			t.Fatal(err)
		}
		time.Sleep(pause)
		if _, err := c.Read(one); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBacklogDrops overruns a backlog: every loss is seen on the CPU that caused it.
func TestBacklogDrops(t *testing.T) {
	needRoot(t)
	inNamespace(t, lastCPU())
	p := makePair(t, 0) // no XDP: through the backlog
	limit, _ := readSysctl("netdev_max_backlog", 1000)
	each := int32(limit + 500)
	b := newBurster(t, each, []pair{p})
	s := openSession(t, Options{Probes: []string{"drops", "budget", "napi", "backlog"}, PacketsPerJiffy: 1_000_000, SampleOneIn: 1, MaxCostPercent: 100})
	requireAttached(t, s, "drops", "backlog")
	ctx, stop := context.WithCancel(t.Context())
	window := openWindow(ctx, t, s, "drops")
	first, err := s.Read()
	if err != nil {
		t.Fatal(err)
	}
	before := softnetColumn(t, softnetDropped)
	b.start(t)
	time.Sleep(50 * time.Millisecond)
	stop()
	if err := <-window; err != nil {
		t.Fatal(err)
	}
	want := delta(softnetColumn(t, softnetDropped), before)
	last, err := s.Read()
	if err != nil {
		t.Fatal(err)
	}
	d, err := last.Sub(first)
	if err != nil {
		t.Fatal(err)
	}
	got := map[int]uint64{}
	for _, row := range d.Drops {
		if row.Backlog == nil {
			t.Fatalf("CPU %d: backlog drops are unknown, although drops have reasons here", row.CPU)
		}
		if *row.Backlog > 0 {
			got[row.CPU] = *row.Backlog
		}
	}
	// Each CPU overran its own, so the kernel charges the same one.
	if diff := cmp.Diff(want, got); diff != "" || len(want) == 0 {
		t.Errorf("backlog drops per CPU (-softnet_stat +probes):\n%s", diff)
	}
	var queue counters.Hist
	for _, row := range d.CPUs {
		queue = queue.Merge(row.Backlog.QueuePackets)
	}
	longest, _ := queue.AtMost(1)
	if longest < uint64(limit) {
		t.Errorf("longest backlog seen is below %d, want at least %d", longest, limit)
	}
	t.Logf("of %d packets dropped by CPU: %v; longest backlog seen between %d and %d", each, got, longest/2+1, longest)
	s.objects["drops"].types = nil // as before 5.18: nothing tells drops apart
	if last, err = s.Read(); err != nil {
		t.Fatal(err)
	}
	for _, row := range last.Drops {
		if row.Backlog != nil {
			t.Errorf("CPU %d: %d backlog drops on a kernel that gives no reasons", row.CPU, *row.Backlog)
		}
	}
}

// watched is a context that notes when it is first asked for its end, which is
// when the programs of a window are attached, and slows their going down.
type watched struct {
	context.Context
	programs []*program
	slow     time.Duration
	at       uint64
}

func (w *watched) Err() error {
	if w.at == 0 {
		w.at = monotonicNs()
		p := w.programs[len(w.programs)-1] // the first to go
		p.link = closing{Link: p.link, told: func() { time.Sleep(w.slow) }}
	}
	return w.Context.Err()
}

// TestWindowLength: a window is as long as all programs are attached, and
// neither attaching nor detaching is a part of it.
func TestWindowLength(t *testing.T) {
	needRoot(t)
	s := openSession(t, Options{Probes: []string{"gro"}})
	requireAttached(t, s, "gro")
	const slow = 100 * time.Millisecond
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for attempt := 0; ; attempt++ {
		s.windowNs["gro"] = 0
		w := &watched{Context: ended, programs: s.objects["gro"].programs, slow: slow}
		began := monotonicNs()
		if err := s.Window(w, "gro", time.Second); err != nil {
			t.Fatal(err)
		}
		if monotonicNs()-w.at < uint64(slow) {
			t.Fatal("detaching took no time")
		}
		attaching := w.at - began
		if got := s.windowNs["gro"]; got < attaching/2 {
			return
		}
		if attempt == undisturbed {
			t.Fatalf("a window closed at once is %v long, attaching took %v and detaching at least %v",
				time.Duration(s.windowNs["gro"]), time.Duration(attaching), slow)
		}
	}
}

// Columns of /proc/net/softnet_stat (net/core/net-procfs.c).
const (
	softnetDropped     = 1
	softnetReceivedRPS = 9
	softnetCPU         = 12
)

// softnetColumn is one column per CPU.
func softnetColumn(t testing.TB, column int) map[int]uint32 {
	t.Helper()
	out := map[int]uint32{}
	for _, line := range fileLines(t, "/proc/net/softnet_stat") {
		f := strings.Fields(line)
		if len(f) <= softnetCPU {
			skipBefore(t, 5, 10, fmt.Sprintf("softnet_stat has %d columns and no CPU number", len(f)))
		}
		out[int(parse(t, f[softnetCPU], 16))] = parse(t, f[column], 16)
	}
	return out
}

// TestWindowTellsErrors: what cannot be read in a window is told, and what the
// window has cost is charged all the same.
func TestWindowTellsErrors(t *testing.T) {
	needRoot(t)
	inNamespace(t, lastCPU())
	s := openSession(t, Options{Probes: []string{"gro"}})
	requireAttached(t, s, "gro")
	// The window is open when it looks at its context for the first time.
	broken := brokenBy{t.Context(), sync.OnceFunc(func() { _ = s.objects["gro"].maps["gro_states"].Close() })}
	if err := s.Window(broken, "gro", 10*time.Second); err == nil {
		t.Error("the counters could not be read, and the window told nothing")
	}
	if s.account.owed == 0 {
		t.Error("the window cost nothing")
	}
}

// brokenBy is a context that breaks something when it is looked at.
type brokenBy struct {
	context.Context
	do func()
}

func (b brokenBy) Err() error {
	b.do()
	return nil
}

// TestWindowEdges: what comes while programs are attached and detached is none
// of the window.
func TestWindowEdges(t *testing.T) {
	needRoot(t)
	inNamespace(t, lastCPU())
	b := newBurster(t, 1, []pair{makePair(t, 0)})
	s := openSession(t, Options{Probes: []string{"gro"}, PacketsPerJiffy: 1_000_000, MaxCostPercent: 100})
	requireAttached(t, s, "gro")
	obj := s.objects["gro"]
	if !obj.switchedOff() {
		t.Error("switched on before a window is open")
	}
	done := make(chan error, 1)
	go func() {
		var err error
		for range 50 {
			looked := brokenBy{t.Context(), sync.OnceFunc(func() {
				if obj.switchedOff() {
					err = errors.Join(err, errors.New("switched off in an open window"))
				}
			})}
			err = errors.Join(err, s.Window(looked, "gro", time.Millisecond))
			if !obj.switchedOff() {
				err = errors.Join(err, errors.New("switched on after the window"))
			}
		}
		done <- err
	}()
	for open := true; open; {
		b.send(t)
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			open = false
		default:
		}
	}
	c, err := s.Read()
	if err != nil {
		t.Fatal(err)
	}
	w := c.Windows[0]
	t.Logf("%d events in %d ns, %d beside them", w.Events, w.AttachedNs, w.Skipped)
	if w.Skipped == 0 {
		t.Error("no packet of 50 windows came while one was attached or detached")
	}
}

// TestThreadedNAPI: the work of a NAPI thread is told apart from softirqs.
func TestThreadedNAPI(t *testing.T) {
	needRoot(t)
	inNamespace(t, lastCPU())
	p := makePair(t, 0)
	setOffload(t, p.in.Attrs().Name, ethtoolSetGRO, 1)
	attachXDP(t, p.in, 0)
	if err := os.WriteFile(ownSysfs(t)+"/class/net/"+p.in.Attrs().Name+"/threaded", []byte("1"), 0); err != nil {
		skipBefore(t, 5, 12, fmt.Sprintf("threaded NAPI: %v", err))
	}
	b := newBurster(t, 100, []pair{p})
	b.send(t)
	s := openSession(t, Options{})
	received := readProcessedBy(t, p)
	first := quietEdge(t, s, netRxStill)
	const bursts = 20
	for i := range uint64(bursts) {
		b.start(t)
		waitReceived(t, p, received+(i+1)*100)
	}
	last := quietEdge(t, s, netRxStill)
	d := between(t, first, last)
	var threaded, budget uint64
	for _, c := range d.CPUs {
		threaded += c.Outside.ThreadedWork
	}
	here := thisNamespace(t)
	for _, n := range d.NAPIs {
		if n.Device == p.in.Attrs().Name && n.NetNS == here {
			budget += n.Work
			if n.Outside != n.Polls {
				t.Errorf("%d of %d polls outside softirqs, want all", n.Outside, n.Polls)
			}
		}
	}
	// Threads of other devices may have polled too.
	if threaded < bursts*100 || budget != bursts*100 {
		t.Errorf("threaded work = %d, want at least what was sent; work of the NAPI = %d, want %d", threaded, budget, bursts*100)
	}
}

// ownSysfs mounts sysfs, which shows the devices of the namespace that mounted it.
func ownSysfs(t testing.TB) string {
	t.Helper()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatalf("make a mount namespace to see the device's sysfs in: %v", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatalf("keep mounts to ourselves: %v", err)
	}
	dir := t.TempDir()
	if err := unix.Mount("sysfs", dir, "sysfs", 0, ""); err != nil {
		t.Fatalf("mount sysfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// TestRPSInterrupts steers packets to another CPU: each interrupt by which RPS
// wakes it is seen where the kernel counts it.
func TestRPSInterrupts(t *testing.T) {
	needRoot(t)
	if !hasTracepoint(t, "csd_function_entry") {
		skipBefore(t, 6, 4, "this kernel has no csd:csd_function_entry")
	}
	if runtime.NumCPU() < 2 {
		ciHas(t, "second CPU for RPS to interrupt")
	}
	inNamespace(t, lastCPU())
	p := makePair(t, 0) // no XDP: netif_rx asks RPS
	steering := ownSysfs(t) + "/class/net/" + p.in.Attrs().Name + "/queues/rx-0/rps_cpus"
	if err := os.WriteFile(steering, []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	b := newBurster(t, 1, []pair{p})
	s := openSession(t, Options{Probes: []string{"drops"}, PacketsPerJiffy: 1_000_000, MaxCostPercent: 100})
	requireAttached(t, s, "drops")
	ctx, stop := context.WithCancel(t.Context())
	window := openWindow(ctx, t, s, "drops")
	w := startWitness(t)
	const tries = 20
	for try := 1; ; try++ {
		from := monotonicNs()
		kernelBefore, before := rpsInterrupts(t, s)
		for range 200 {
			b.send(t)
		}
		kernelAfter, after := rpsInterrupts(t, s)
		want := delta(kernelAfter, kernelBefore)
		if want[0] < 100 {
			t.Errorf("interrupts of RPS per CPU are %v, want most of 200 on CPU 0", want)
		}
		diff := cmp.Diff(want, delta(after, before))
		if diff == "" {
			break
		}
		// Where the interrupt is hidden from eBPF, so is the softirq that it asks
		// for: it runs in the same task.
		hidden := w.hidden(t, from, monotonicNs(), func(e hiddenEvent) bool { return e.vector == vectorRx })
		if t.Logf("try %d: hidden NET_RX softirqs per CPU %v, interrupts of RPS (-softnet_stat +probes):\n%s", try, hidden, diff); len(hidden) == 0 || try == tries {
			t.Errorf("the probe and the kernel count differently, and no softirq was hidden from eBPF in try %d of %d", try, tries)
			break
		}
	}
	stop()
	if err := <-window; err != nil {
		t.Fatal(err)
	}
	c, err := s.Read()
	if err != nil {
		t.Fatal(err)
	}
	var interrupts uint64
	for _, row := range c.Drops {
		interrupts += *row.RPSInterrupts
	}
	if w := c.Windows[0]; w.Events < interrupts {
		t.Errorf("%d events were counted against the limit, %d interrupts of RPS among them", w.Events, interrupts)
	}
}

// rpsInterrupts are those that the kernel and the probe counted so far, at a
// moment when the kernel's stood still.
func rpsInterrupts(t testing.TB, s *Session) (kernel, probe map[int]uint32) {
	t.Helper()
	for range 500 {
		kernel = softnetColumn(t, softnetReceivedRPS)
		time.Sleep(time.Millisecond) // the event comes before the count
		c, err := s.Read()
		if err != nil {
			t.Fatal(err)
		}
		probe = map[int]uint32{}
		for _, row := range c.Drops {
			if row.RPSInterrupts == nil {
				t.Fatalf("CPU %d: interrupts of RPS are unknown, although the kernel shows them", row.CPU)
			}
			probe[row.CPU] = uint32(*row.RPSInterrupts)
		}
		if cmp.Equal(kernel, softnetColumn(t, softnetReceivedRPS)) {
			return kernel, probe
		}
	}
	t.Fatal("no quiet moment in 500 attempts")
	return nil, nil
}

// TestSegmentsBySize receives what hardware has merged: the packet says how
// large its segments were and not how many (include/linux/virtio_net.h).
func TestSegmentsBySize(t *testing.T) {
	needRoot(t)
	inNamespace(t, lastCPU())
	tap, name := openTap(t, unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_VNET_HDR)
	s := openSession(t, Options{Probes: []string{"gro"}, PacketsPerJiffy: 1_000_000, MaxCostPercent: 100})
	requireAttached(t, s, "gro")
	for _, tt := range []struct {
		name             string
		options, payload int
		want             uint64
	}{
		{"five whole ones", 12, 5000, 5},
		{"a short last one", 12, 4001, 5},
		{"no options", 0, 5000, 5},
	} {
		const packets = 10
		d := throughWindow(t, s, func() {
			for range packets {
				if _, err := unix.Write(tap, mergedFrame(tt.options, tt.payload)); err != nil {
					t.Fatalf("receive a merged packet: %v", err)
				}
			}
			time.Sleep(20 * time.Millisecond)
		})
		i := slices.IndexFunc(d.GRO, func(g counters.GRO) bool { return g.Device == name })
		if i < 0 {
			t.Fatalf("%s: no row for %s in %+v", tt.name, name, d.GRO)
		}
		g := d.GRO[i]
		if g.Delivered != packets || g.Segments != packets*tt.want || g.TCPSegments != g.Segments {
			t.Errorf("%s: %d segments (%d TCP) in %d packets, want %d in %d",
				tt.name, g.Segments, g.TCPSegments, g.Delivered, packets*tt.want, packets)
		}
	}
}

// TestHeadersInPages receives packets whose headers are where their data is: in
// a page, as virtio-net leaves them where GRO is off.
func TestHeadersInPages(t *testing.T) {
	needRoot(t)
	inNamespace(t, lastCPU())
	tap, name := openTap(t, unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_NAPI|unix.IFF_NAPI_FRAGS)
	setOffload(t, name, ethtoolSetGRO, 0)
	s := openSession(t, Options{Probes: []string{"gro"}, PacketsPerJiffy: 1_000_000, MaxCostPercent: 100})
	requireAttached(t, s, "gro")
	const packets, tcp = 10, 6
	for _, tt := range []struct {
		name         string
		version      int
		linear       int
		tcp, unknown uint64
	}{
		{"IPv4, all in a page", 4, 14, 0, packets}, {"IPv4, up to the protocol", 4, 14 + 9, 0, packets}, {"IPv4, with the protocol", 4, 14 + 10, packets, 0},
		{"IPv6, all in a page", 6, 14, 0, packets}, {"IPv6, up to the protocol", 6, 14 + 6, 0, packets}, {"IPv6, with the protocol", 6, 14 + 7, packets, 0},
	} {
		d := throughWindow(t, s, func() {
			frame := frameOf(tt.version, tcp)
			for range packets {
				if _, err := unix.Writev(tap, [][]byte{frame[:tt.linear], frame[tt.linear:]}); err != nil {
					t.Fatalf("receive a packet: %v", err)
				}
			}
			time.Sleep(20 * time.Millisecond)
		})
		i := slices.IndexFunc(d.GRO, func(g counters.GRO) bool { return g.Device == name })
		if i < 0 {
			t.Fatalf("%s: no row for %s in %+v", tt.name, name, d.GRO)
		}
		if g := d.GRO[i]; g.Delivered != packets || g.TCPSegments != tt.tcp || g.UnknownSegments != tt.unknown {
			t.Errorf("%s: %d packets, %d TCP, %d unknown, want %d, %d, %d", tt.name, g.Delivered, g.TCPSegments, g.UnknownSegments, packets, tt.tcp, tt.unknown)
		}
	}
}

// openTap makes a device that receives what is written.
func openTap(t testing.TB, flags uint16) (fd int, name string) {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		ciHas(t, "/dev/net/tun, for a tap")
	}
	if err != nil {
		t.Fatalf("make a tap: %v", err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	name = "ntap"
	request, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	request.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		t.Fatalf("make a tap: %v", err)
	}
	bringUp(t, name)
	return fd, name
}

// mergedFrame is TCP in segments of 1000 bytes, behind struct virtio_net_hdr.
func mergedFrame(options, payload int) []byte {
	const virtioHeader, ethernet, ip, tcp = 10, 14, 20, 20
	frame := udpFrame()[:ethernet+ip]
	headers := ip + tcp + options
	out := append(make([]byte, virtioHeader), frame...)
	out = append(out, make([]byte, tcp+options+payload)...)
	out[0], out[1] = 1, 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4
	for i, field := range []int{ethernet + headers, 1000, ethernet + ip, 16} {
		binary.LittleEndian.PutUint16(out[2+2*i:], uint16(field))
	}
	packet := out[virtioHeader+ethernet:]
	packet[9] = unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(packet[2:], uint16(headers+payload))
	packet[ip+12] = byte((tcp + options) / 4 << 4)
	return out
}

// TestVirtio reads the host's own NIC, if it is virtio-net, while it does
// whatever it does; nothing about it is changed.
func TestVirtio(t *testing.T) {
	needRoot(t)
	irqs := virtioReceiveIRQs(t)
	if len(irqs) == 0 {
		if devices := virtioDevices(t); len(devices) > 0 {
			t.Fatalf("%q are virtio-net, and no interrupt is named after a receive queue", devices)
		}
		t.Skip("skipped: no network device of this machine has the driver virtio_net")
	}
	s := openSession(t, Options{IRQs: irqs})
	requireAttached(t, s, "virtio", "irq")
	received := virtioReceived(t)
	first, err := s.Read()
	if err != nil {
		t.Fatal(err)
	}
	var d *counters.Counters
	for range 40 {
		provokeAnswers()
		time.Sleep(50 * time.Millisecond)
		last, err := s.Read()
		if err != nil {
			t.Fatal(err)
		}
		if d, err = last.Sub(first); err != nil {
			t.Fatal(err)
		}
		if len(d.Virtio) > 0 && d.Virtio[0].RingReads > 3 {
			break
		}
	}
	if len(d.Virtio) == 0 {
		if n := virtioReceived(t) - received; n > 0 {
			t.Fatalf("virtio-net received %d packets, the probe saw no poll of it", n)
		}
		t.Skip("skipped: the driver itself counted no packet received by virtio-net in two seconds")
	}
	lines := map[[2]uint32]int{} // by device and queue
	for _, v := range d.Virtio {
		perInterrupt, _ := d.PacketsPerInterrupt(v)
		t.Logf("%+v, %.2f packets per interrupt", v, perInterrupt)
		queue := [2]uint32{v.IfIndex, uint32(v.Queue)}
		line, known := lines[queue]
		switch {
		// A CPU sees no line of a queue whose interrupts only ever came just before
		// those of another: a first one before it moves away, for example.
		case v.IRQ == -1:
			if v.ArmedPolls+v.UnarmedPolls != 0 {
				t.Errorf("queue %d on CPU %d: %d and %d polls are told apart by an interrupt nobody saw", v.Queue, v.CPU, v.ArmedPolls, v.UnarmedPolls)
			}
		case !slices.Contains(irqs, v.IRQ) || known && line != 0 && line != v.IRQ:
			t.Errorf("queue %d on CPU %d: interrupt %d, want one of %v, and the same on all CPUs (%d)", v.Queue, v.CPU, v.IRQ, irqs, line)
		default:
			line = v.IRQ
		}
		lines[queue] = line
		if v.RingSize == 0 || v.RingSize&(v.RingSize-1) != 0 && !v.Packed {
			t.Errorf("queue %d: ring of %d descriptors, want a power of two", v.Queue, v.RingSize)
		}
		if v.MaxPending > uint64(v.RingSize) || v.MaxUnfilled > uint64(v.RingSize) {
			t.Errorf("queue %d: %d pending, %d unfilled of %d", v.Queue, v.MaxPending, v.MaxUnfilled, v.RingSize)
		}
		var reads uint64
		for _, n := range v.PendingEighths {
			reads += n
		}
		if reads != v.RingReads {
			t.Errorf("queue %d: histogram holds %d of %d reads", v.Queue, reads, v.RingReads)
		}
	}
	for queue, line := range lines {
		if line == 0 {
			t.Errorf("device %d: no interrupt of queue %d on any CPU", queue[0], queue[1])
		}
	}
	named := slices.ContainsFunc(d.NAPIs, func(n counters.NAPI) bool { return n.Kind == "virtio-rx" && n.Queue >= 0 })
	if !named {
		t.Error("no NAPI was recognised as a virtio receive queue")
	}
}

// TestVirtioOverflow: queues that find no slot are counted, and are receive
// queues all the same.
func TestVirtioOverflow(t *testing.T) {
	needRoot(t)
	spec, err := loadCore()
	if err != nil {
		t.Fatal(err)
	}
	// Each receive queue comes with a transmit queue, and both have a NAPI.
	if queues, napis := spec.Maps["virtio_slots"].MaxEntries, spec.Maps["napi_slots"].MaxEntries; 2*queues < napis {
		t.Errorf("%d slots for receive queues, although %d NAPIs have one", queues, napis)
	}
	if len(virtioDevices(t)) == 0 {
		t.Skip("skipped: no network device of this machine has the driver virtio_net")
	}
	s := openSession(t, Options{})
	requireAttached(t, s, "virtio")
	if err := s.pause(); err != nil {
		t.Fatal(err)
	}
	var states []coreCpuState
	maps := s.objects["core"].maps
	if err := maps["cpu_states"].Lookup(uint32(0), &states); err != nil {
		t.Fatal(err)
	}
	for cpu := range states {
		states[cpu].VirtioUsed = maps["virtio_slots"].MaxEntries()
	}
	if err := maps["cpu_states"].Put(uint32(0), states); err != nil {
		t.Fatal(err)
	}
	// Slots of NAPIs that were seen already are given anew.
	var none []coreNapiSlot
	if err := maps["napi_slots"].Lookup(uint32(0), &none); err != nil {
		t.Fatal(err)
	}
	clear(none)
	for slot := range maps["napi_slots"].MaxEntries() {
		if err := maps["napi_slots"].Put(slot, none); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.resume(); err != nil {
		t.Fatal(err)
	}
	received := virtioReceived(t)
	for range 40 {
		provokeAnswers()
		time.Sleep(50 * time.Millisecond)
		c, err := s.Read()
		if err != nil {
			t.Fatal(err)
		}
		var overflow uint64
		for _, row := range c.CPUs {
			overflow += row.VirtioOverflow
		}
		named := slices.ContainsFunc(c.NAPIs, func(n counters.NAPI) bool { return n.Kind == "virtio-rx" && n.Queue == -1 })
		if overflow > 0 && named {
			return
		}
		if overflow > 0 {
			t.Fatalf("%d queues without a slot, and none among %+v", overflow, c.NAPIs)
		}
	}
	if n := virtioReceived(t) - received; n > 0 {
		t.Fatalf("virtio-net received %d packets, and no queue wanted a slot", n)
	}
	t.Skip("skipped: the driver itself counted no packet received by virtio-net in two seconds")
}

// virtioDevices are the network devices of the driver virtio_net.
func virtioDevices(t testing.TB) []string {
	t.Helper()
	links, err := filepath.Glob("/sys/class/net/*/device/driver")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, l := range links {
		if driver, err := os.Readlink(l); err == nil && filepath.Base(driver) == "virtio_net" {
			out = append(out, strings.Split(l, "/")[4])
		}
	}
	return out
}

// virtioReceived is the driver's own count of packets.
func virtioReceived(t testing.TB) uint64 {
	t.Helper()
	var sum uint64
	for _, name := range virtioDevices(t) {
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		sum += l.Attrs().Statistics.RxPackets
	}
	return sum
}

// virtioReceiveIRQs are the lines named virtioN-input.M.
func virtioReceiveIRQs(t testing.TB) []int {
	t.Helper()
	var out []int
	for _, line := range fileLines(t, "/proc/interrupts")[1:] {
		f := strings.Fields(line)
		name := f[len(f)-1]
		if strings.HasPrefix(name, "virtio") && strings.Contains(name, "-input.") {
			out = append(out, int(parse(t, strings.TrimSuffix(f[0], ":"), 10)))
		}
	}
	return out
}

// provokeAnswers has a packet come in: in a guest of the lab the other end of
// the wire sends some, elsewhere the resolver answers or refuses a name.
func provokeAnswers() {
	if sender, err := exec.LookPath("lab"); err == nil {
		_ = exec.Command(sender, "send", "--packets", "100", "--seconds", "5").Run() // whether any came is looked at
		return
	}
	ctx, stop := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer stop()
	_, _ = net.DefaultResolver.LookupHost(ctx, "localhost.invalid")
}

// openFDs lists the descriptors of programs, maps and links.
func openFDs(t testing.TB) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && strings.Contains(target, "bpf") {
			out = append(out, target)
		}
	}
	slices.Sort(out)
	return out
}

// loadedIDs are the kernel's ids of what a session has loaded. Other processes
// may have loaded programs of the same names.
func loadedIDs(t testing.TB, s *Session) (programs []ebpf.ProgramID, maps []ebpf.MapID) {
	t.Helper()
	for _, o := range s.objects {
		for _, p := range o.programs {
			info, err := p.prog.Info()
			if err != nil {
				t.Fatal(err)
			}
			id, _ := info.ID()
			programs = append(programs, id)
		}
		for _, m := range o.maps {
			info, err := m.Info()
			if err != nil {
				t.Fatal(err)
			}
			id, _ := info.ID()
			maps = append(maps, id)
		}
	}
	return programs, maps
}

// alive names those programs and maps that the kernel still has.
func alive(programs []ebpf.ProgramID, maps []ebpf.MapID) []string {
	var out []string
	for _, id := range programs {
		if p, err := ebpf.NewProgramFromID(id); err == nil {
			out = append(out, fmt.Sprintf("program %d %v", id, p))
			_ = p.Close()
		}
	}
	for _, id := range maps {
		if m, err := ebpf.NewMapFromID(id); err == nil {
			out = append(out, fmt.Sprintf("map %d %v", id, m))
			_ = m.Close()
		}
	}
	return out
}

// TestNoLeaks attaches and detaches 200 times, and opens windows, while a thread
// sends without regard to that.
func TestNoLeaks(t *testing.T) {
	needRoot(t)
	inNamespace(t, lastCPU())
	p := makePair(t, 0)
	attachXDP(t, p.in, 0)
	b := newBurster(t, 20, []pair{p})
	b.send(t)
	all := []string{}
	for _, p := range probeTable() {
		all = append(all, p.name)
	}
	fdsBefore := openFDs(t)
	var programs []ebpf.ProgramID
	var maps []ebpf.MapID
	traffic := sendThroughout(t, b, p)
	// Loading is slow, so every session attaches and detaches several times;
	// opening and closing count as one.
	const sessions, cycles = 20, 9
	for range sessions {
		s, err := Open(Options{Probes: all})
		if err != nil {
			t.Fatal(err)
		}
		p, m := loadedIDs(t, s)
		programs, maps = append(programs, p...), append(maps, m...)
		for range cycles {
			if err := errors.Join(s.pause(), s.resume()); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range []string{"gro", "drops"} {
			if err := s.Window(t.Context(), name, time.Millisecond); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Read(); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	sent, received := traffic.stop(t)
	if sent != received || sent < uint64(sessions*cycles*b.packets) {
		t.Errorf("%d packets received of %d, want all, and at least a burst for each time", received, sent)
	}
	t.Logf("%d packets sent and %d received meanwhile", sent, received)
	if diff := cmp.Diff(fdsBefore, openFDs(t)); diff != "" {
		t.Errorf("file descriptors:\n%s", diff)
	}
	waitFreed(t, programs, maps)
}

// waitFreed: the kernel frees programs and maps after grace periods.
func waitFreed(t testing.TB, programs []ebpf.ProgramID, maps []ebpf.MapID) {
	t.Helper()
	var leaked []string
	for range 250 {
		if leaked = alive(programs, maps); len(leaked) == 0 {
			t.Logf("%d programs and %d maps were loaded, none is left", len(programs), len(maps))
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("left behind: %q", leaked)
}

// TestCloseFrees: what a session loaded goes when it is closed, and does not
// wait for the garbage collector.
func TestCloseFrees(t *testing.T) {
	needRoot(t)
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	s, err := Open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	programs, maps := loadedIDs(t, s)
	if len(programs) == 0 || len(maps) == 0 {
		t.Fatalf("%d programs and %d maps: nothing was loaded", len(programs), len(maps))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	waitFreed(t, programs, maps)
}

// traffic is a thread that sends bursts to one pair.
type traffic struct {
	end    chan struct{}
	done   chan error
	sent   uint64
	before uint64
	pair   pair
}

// sendThroughout sends until stop, never more than the ring of a veth holds (256
// packets, VETH_RING_SIZE in drivers/net/veth.c) before they are received.
func sendThroughout(t testing.TB, b burster, p pair) *traffic {
	t.Helper()
	here, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	out := &traffic{end: make(chan struct{}), done: make(chan error, 1), before: readProcessedBy(t, p), pair: p}
	go func() {
		defer here.Close()
		runtime.LockOSThread() // and never unlocked: the thread is of the namespace now
		err := netns.Set(here)
		for err == nil {
			select {
			case <-out.end:
				out.done <- nil
				return
			default:
			}
			var l netlink.Link
			if l, err = netlink.LinkByIndex(p.in.Attrs().Index); err != nil {
				break
			}
			if out.sent-(l.Attrs().Statistics.RxPackets-out.before) > 100 {
				time.Sleep(100 * time.Microsecond)
				continue
			}
			if err = b.sendOnce(); err == nil {
				out.sent += uint64(b.packets)
			}
		}
		out.done <- err
	}()
	return out
}

// stop ends the traffic and says what was sent and what came.
func (r *traffic) stop(t testing.TB) (sent, received uint64) {
	t.Helper()
	close(r.end)
	if err := <-r.done; err != nil {
		t.Fatalf("send: %v", err)
	}
	waitReceived(t, r.pair, r.before+r.sent)
	return r.sent, readProcessedBy(t, r.pair) - r.before
}

// waitReceived waits for packets of our own, which other packets cannot stand
// for: the thread that polls may itself be waiting for its CPU.
func waitReceived(t testing.TB, p pair, want uint64) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); readProcessedBy(t, p) < want; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%d packets were received, want %d", readProcessedBy(t, p), want)
		}
	}
}

// readProcessedBy is what the receiving end of a pair has counted.
func readProcessedBy(t testing.TB, p pair) uint64 {
	t.Helper()
	l, err := netlink.LinkByIndex(p.in.Attrs().Index)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().Statistics.RxPackets
}

// capabilityChild is how TestCapabilities runs this test binary again.
const capabilityChild = "NAPITUNE_TEST_CHILD"

// TestCapabilities runs a child that is not root.
func TestCapabilities(t *testing.T) {
	if os.Getenv(capabilityChild) != "" {
		reportAsChild(t)
		return
	}
	needRoot(t)
	tests := []struct {
		name       string
		caps       []uintptr
		want       counters.State
		capability string
	}{
		{name: "both", caps: []uintptr{capBPF, capPerfmon}, want: counters.Attached},
		{name: "neither", want: counters.Denied, capability: "CAP_BPF and CAP_PERFMON"},
		{name: "CAP_BPF only", caps: []uintptr{capBPF}, want: counters.Denied, capability: "CAP_PERFMON"},
		{name: "CAP_PERFMON only", caps: []uintptr{capPerfmon}, want: counters.Denied, capability: "CAP_BPF"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			runtime.LockOSThread()
			// Another user must be able to run the binary and to enter the directory.
			binary := t.TempDir() + "/probes.test"
			copyExecutable(t, binary)
			cmd := exec.Command(binary, "-test.run=^TestCapabilities$", "-test.v")
			cmd.Dir = "/"
			cmd.Env = []string{capabilityChild + "=1"}
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Credential:  &syscall.Credential{Uid: 65534, Gid: 65534},
				AmbientCaps: tt.caps,
			}
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for _, name := range DefaultProbes() {
				want := "probe " + name + " " + string(tt.want) + " [" + tt.capability + "]"
				if !strings.Contains(string(out), want) {
					t.Errorf("child does not say %q:\n%s", want, out)
				}
			}
		})
	}
}

func reportAsChild(t *testing.T) {
	s := openSession(t, Options{})
	for _, st := range s.Status() {
		if slices.Contains(DefaultProbes(), st.Name) {
			t.Logf("probe %s %s [%s] %s", st.Name, st.State, st.Capability, st.Reason)
		}
	}
	if _, err := s.Read(); err != nil {
		t.Errorf("read: %v", err)
	}
	if err := s.Observe(t.Context(), 20*time.Millisecond); err != nil {
		t.Errorf("observe: %v", err)
	}
	if err := s.Window(t.Context(), "gro", 10*time.Millisecond); err != nil {
		t.Errorf("window: %v", err)
	}
}

func copyExecutable(t testing.TB, to string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o755); err != nil {
		t.Fatal(err)
	}
	for dir := to; len(dir) > len(os.TempDir()); {
		dir = dir[:strings.LastIndex(dir, "/")]
		if dir == "" || dir == os.TempDir() {
			break
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// TestObserve: where softirqs are so frequent that the limit would be exceeded
// the probes are attached in slices, and what they count in them is no
// different. An event is said to cost a millisecond there, so that no machine
// is too slow to exceed the limit and detaching is cheaper than staying.
func TestObserve(t *testing.T) {
	needRoot(t)
	inNamespace(t, lastCPU())
	p := makePair(t, 0)
	b := newBurster(t, 1, []pair{p})
	if c := observe(t, b, 100, eventCostNs).Coverage(); c < 0.95 {
		t.Errorf("covered %.3f of the time although the limit is generous, want nearly all", c)
	}
	if c := observe(t, b, 1, 1e6).Coverage(); c <= 0 || c > 0.6 {
		t.Errorf("covered %.3f of the time at a limit of 1 %%, want some and at most 0.6", c)
	}
}

// observe lets a second of single packets pass and checks what was counted.
func observe(t *testing.T, b burster, limit, eventNs float64) *counters.Counters {
	t.Helper()
	s := openSession(t, Options{MaxCostPercent: limit})
	s.eventNs = eventNs
	requireAttached(t, s, "budget")
	first, err := s.Read()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Observe(t.Context(), time.Second) }()
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		b.send(t)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	last, err := s.Read()
	if err != nil {
		t.Fatal(err)
	}
	d, err := last.Sub(first)
	if err != nil {
		t.Fatal(err)
	}
	got := budgetOf(d, lastCPU())
	t.Logf("covered %.3f; %d runs, %d polls", d.Coverage(), got.Runs, got.Polls)
	// A few runs find nothing to poll any more.
	if got.Runs == 0 || got.Squeezes() > got.Runs/100 || got.Polls < got.Runs-got.Runs/100 {
		t.Errorf("%d runs, %d polls, %d squeezes", got.Runs, got.Polls, got.Squeezes())
	}
	for _, c := range d.CPUs {
		if c.Outside.BusyPolls > 0 {
			t.Errorf("CPU %d: %d polls taken for busy polling", c.CPU, c.Outside.BusyPolls)
		}
		if wait, _ := c.Rx.RaiseToEntryNs.Mean(); wait > 50e6 {
			t.Errorf("CPU %d: softirqs wait %.0f ns: a pause was counted as a wait", c.CPU, wait)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestVirtioLoad has the other end of a lab's wire send to all queues of a
// virtio NIC and compares everything per CPU. It runs in guests only:
//
//	lab test --kernel 6.1 --nic virtio,queues=4 ./probes -- -test.v -test.run TestVirtioLoad
func TestVirtioLoad(t *testing.T) {
	send := guestSender(t)
	irqs := virtioReceiveIRQs(t)
	if len(irqs) == 0 {
		t.Skip("skipped: this guest has no virtio-net device")
	}
	s := openSession(t, Options{IRQs: irqs})
	requireAttached(t, s, "budget", "napi", "virtio", "irq")
	still := func(k kernelTotals) any {
		lines := map[int]map[int]uint32{}
		for _, irq := range irqs {
			lines[irq] = k.interrupts[irq]
		}
		return []any{netRxStill(k), lines}
	}
	const packets = 20_000
	received := virtioReceived(t)
	first := quietEdge(t, s, still)
	send(packets)
	last := quietEdge(t, s, still)
	d := between(t, first, last)
	differences := slices.Concat(compareNetRx(d, first, last), compareLines(d, first, last, irqs),
		compare("NAPI work", delta(last.kernel.processed, first.kernel.processed),
			perCPU(d, func(c counters.CPU) uint64 { return c.Budget.Work + c.Outside.ThreadedWork + c.Outside.BusyWork })))
	for _, difference := range differences {
		t.Error(difference)
	}
	var polled uint64
	queues := map[int]uint64{}
	for _, n := range d.NAPIs {
		if n.Kind == "virtio-rx" {
			polled += n.Work
			queues[n.Queue] += n.Work
			t.Logf("queue %d on CPU %d: %d polls, %.0f ms, and %d longer than 10 ms of %d ms in all",
				n.Queue, n.CPU, n.Polls, n.SoftirqNs()/1e6, n.LongPolls, n.LongNs/1e6)
		}
	}
	if got := virtioReceived(t) - received; polled != got || got < packets {
		t.Errorf("virtio-net received %d packets of %d, its NAPIs polled %d", got, packets, polled)
	}
	noMisses(t, s)
	t.Logf("packets per queue: %v; per CPU: interrupts %v, NET_RX runs %v, work %v, squeezes %v", queues,
		interruptsOf(d), perCPU(d, func(c counters.CPU) uint64 { return c.Softirq["NET_RX"].Runs }),
		perCPU(d, func(c counters.CPU) uint64 { return c.Budget.Work }), perCPU(d, func(c counters.CPU) uint64 { return c.Budget.Squeezes() }))
}

// TestVirtioResized: a ring that is resized in place, its virtqueue kept, is
// measured by its new size.
func TestVirtioResized(t *testing.T) {
	send := guestSender(t)
	devices := virtioDevices(t)
	if len(devices) == 0 {
		t.Skip("skipped: this guest has no virtio-net device")
	}
	s := openSession(t, Options{})
	requireAttached(t, s, "virtio")
	sizes := func() map[int]uint32 {
		t.Helper()
		send(2000)
		c, err := s.Read()
		if err != nil {
			t.Fatal(err)
		}
		out := map[int]uint32{}
		for _, v := range c.Virtio {
			out[v.Queue] = v.RingSize
			if v.MaxPending > uint64(v.RingSize) || v.MaxUnfilled > uint64(v.RingSize) {
				t.Errorf("queue %d: %d pending, %d unfilled of %d", v.Queue, v.MaxPending, v.MaxUnfilled, v.RingSize)
			}
		}
		if len(out) < 2 {
			t.Fatalf("2000 packets on %d queues: %+v", len(out), c.Virtio)
		}
		return out
	}
	resize := func(descriptors uint32) {
		t.Helper()
		if out, err := exec.Command("ethtool", "-G", devices[0], "rx", strconv.Itoa(int(descriptors))).CombinedOutput(); err != nil {
			t.Fatalf("ethtool -G %s rx %d: %v\n%s", devices[0], descriptors, err, out)
		}
	}
	before := sizes()
	t.Logf("descriptors per queue: %v", before)
	full := before[0]
	t.Cleanup(func() { resize(full) })
	resize(full / 2)
	for queue, size := range sizes() {
		if size != full/2 {
			t.Errorf("queue %d: ring of %d descriptors, and ethtool made it %d of %d", queue, size, full/2, full)
		}
	}
}

// guestSender has packets sent to the NIC of this guest of the lab. Elsewhere NICs
// are not ours to change, and nobody sends.
func guestSender(t *testing.T) (send func(packets int)) {
	t.Helper()
	needRoot(t)
	sender, err := exec.LookPath("lab")
	if err != nil {
		t.Skip("skipped: this is no guest of the lab, which sends to its NIC")
	}
	return func(packets int) {
		t.Helper()
		out, err := exec.Command(sender, "send", "--packets", strconv.Itoa(packets), "--rate", "5000", "--seconds", "30").CombinedOutput()
		if err != nil {
			t.Fatalf("lab send: %v\n%s", err, out)
		}
	}
}

// compareLines holds interrupts against the kernel, on every line and CPU.
func compareLines(d *counters.Counters, first, last edge, irqs []int) []string {
	var out []string
	for _, irq := range irqs {
		got := map[int]uint64{}
		for _, row := range d.IRQs {
			if row.IRQ == irq && row.Count > 0 {
				got[row.CPU] += row.Count
			}
		}
		out = append(out, compare(fmt.Sprintf("interrupts of line %d", irq),
			delta(last.kernel.interrupts[irq], first.kernel.interrupts[irq]), got)...)
	}
	return out
}

func interruptsOf(d *counters.Counters) map[int]uint64 {
	out := map[int]uint64{}
	for _, row := range d.IRQs {
		out[row.CPU] += row.Count
	}
	return out
}

// TestCostIsOurs: what programs cost while only somebody else has BPF
// statistics on is not counted, for nobody knows how long that was.
func TestCostIsOurs(t *testing.T) {
	needRoot(t)
	inNamespace(t, lastCPU())
	b := newBurster(t, 1, []pair{makePair(t, 0)})
	s := openSession(t, Options{})
	requireAttached(t, s, "budget")
	foreign, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	runs := func() (sum uint64) {
		for range 20 {
			b.send(t)
		}
		c, err := s.Read()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range c.Cost {
			sum += p.Runs
		}
		return sum
	}
	if n := runs(); n != 0 {
		t.Errorf("%d runs before StartStats, want 0", n)
	}
	if err := s.StartStats(); err != nil {
		t.Fatal(err)
	}
	if n := runs(); n < 20*3 {
		t.Errorf("%d runs for 20 packets, want at least an entry, a poll and an exit each", n)
	}
	if err := s.StopStats(); err != nil {
		t.Fatal(err)
	}
	stopped := runs()
	if n := runs(); n != stopped {
		t.Errorf("%d runs after StopStats and %d later", stopped, n)
	}
}

// TestCallsEqualRuns: what programs count of themselves is what the kernel counts
// of them.
func TestCallsEqualRuns(t *testing.T) {
	needRoot(t)
	inNamespace(t, lastCPU())
	b := newBurster(t, 1, []pair{makePair(t, 0)})
	s := openSession(t, Options{})
	requireAttached(t, s, "budget")
	if err := s.StartStats(); err != nil {
		ciHas(t, "BPF statistics: "+err.Error())
	}
	read := func() *counters.Counters {
		c, err := s.Read()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	before := read()
	d := throughWindow(t, s, func() {
		for range 1000 {
			b.send(t)
		}
	})
	around, err := read().Sub(before)
	if err != nil {
		t.Fatal(err)
	}
	runs, most := map[string]uint64{}, map[string]uint64{}
	for _, p := range d.Cost {
		runs[p.Group] += p.Runs
	}
	for _, c := range around.Calls {
		most[c.Group] = c.Calls
	}
	for _, c := range d.Calls {
		t.Logf("%s: %d calls, %d with those around, %d runs", c.Group, c.Calls, most[c.Group], runs[c.Group])
		// A reading takes calls first and runs last, and softirqs of others come in
		// between: runs are no more than the calls that a reading before and one after
		// saw. Polls before the first run that was seen are not counted.
		slack := 20 + c.Calls/50
		if n := runs[c.Group]; c.Calls < 1000 || n+slack < c.Calls || n > most[c.Group]+slack {
			t.Errorf("%s: %d calls, %d with those around, %d runs", c.Group, c.Calls, most[c.Group], n)
		}
	}
	if len(d.Calls) != 3 {
		t.Errorf("%d groups, want napi, softirq and gro", len(d.Calls))
	}
}
