package live

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/napitune/napitune/detect/host"
)

// childEnv marks a test binary that runs itself again, in namespaces of its
// own ("namespace") or without privileges ("nobody").
const childEnv = "NAPITUNE_LIVE_CHILD"

// needs skips a test that this machine cannot do, and fails it under CI, which can.
func needs(t *testing.T, ok bool, what string) {
	t.Helper()
	switch {
	case ok:
	case os.Getenv("CI") == "true":
		t.Fatalf("CI must have %s", what)
	default:
		t.Skipf("skipped: needs %s", what)
	}
}

// lacking skips a test on a kernel that is older than what it needs, and fails
// it on all others: there the feature must be found.
func lacking(t *testing.T, major, minor int, what string, err error) {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	release := unix.ByteSliceToString(name.Release[:])
	var m, n int
	if _, err := fmt.Sscanf(release, "%d.%d", &m, &n); err != nil {
		t.Fatalf("kernel release %q: %v", release, err)
	}
	if m > major || m == major && n >= minor {
		t.Fatalf("kernel %s has %s since %d.%d: %v", release, what, major, minor, err)
	}
	t.Skipf("skipped: kernel %s has no %s: %v", release, what, err)
}

// again runs the calling test in a child and reports whether this is the child.
func again(t *testing.T, kind string, attr *syscall.SysProcAttr) bool {
	t.Helper()
	if os.Getenv(childEnv) == kind {
		return true
	}
	needs(t, os.Getuid() == 0, "root")
	// The binary's own directory may be closed to the child's user.
	cmd := exec.Command("/proc/self/exe", "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), childEnv+"="+kind)
	cmd.SysProcAttr = attr
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) {
		needs(t, false, "the right to make namespaces")
	}
	t.Logf("in the child:\n%s", out)
	if err != nil {
		t.Errorf("child: %v", err)
	}
	if !bytes.Contains(out, []byte("--- PASS: "+t.Name())) && !bytes.Contains(out, []byte("--- FAIL")) {
		t.Error("the child did not run the test")
	}
	return false
}

// inNamespace runs the test as root in fresh network and mount namespaces,
// where /sys shows the devices of that network namespace. Nothing of it outlives
// the child.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if !again(t, "namespace", &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS}) {
		return false
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/sys/class/net/eth0"); err == nil {
		t.Fatal("the namespace is not fresh")
	}
	return true
}

func open(t testing.TB) *host.Host {
	t.Helper()
	h, err := Open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func openWriter(t *testing.T) *host.Writer {
	t.Helper()
	w, err := OpenWriter(Options{})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// addVeth makes a pair veth0/veth1 with 4 queues each way and brings it up.
func addVeth(t *testing.T) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.NumRxQueues, attrs.NumTxQueues = "veth0", 4, 4
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNumRxQueues, veth.PeerNumTxQueues = "veth1", 4, 4
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lo", "veth0", "veth1"} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			t.Fatal(err)
		}
	}
}

func linkNamed(t *testing.T, h *host.Host, name string) host.Link {
	t.Helper()
	links, err := h.Links()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(links, func(l host.Link) bool { return l.Name == name })
	if i < 0 {
		t.Fatalf("no link %s in %v", name, links)
	}
	return links[i]
}

func TestChannelsOfVeth(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	addVeth(t)
	h, w := open(t), openWriter(t)
	c, err := h.Ethtool.Channels("veth0")
	if err != nil {
		t.Fatal(err)
	}
	if c.MaxRx != 4 || c.MaxTx != 4 || c.MaxCombined != 0 {
		t.Fatalf("channels %+v", c)
	}
	for _, n := range []int{2, 4, 1} {
		c.Rx, c.Tx = n, n
		if err := w.SetChannels("veth0", c); err != nil {
			t.Fatal(err)
		}
		got, err := h.Ethtool.Channels("veth0")
		if err != nil || got != c {
			t.Errorf("%+v, %v; want %+v", got, err, c)
		}
		queues, err := filepath.Glob("/sys/class/net/veth0/queues/rx-*")
		if err != nil || len(queues) != n {
			t.Errorf("sysfs shows %d receive queues, want %d", len(queues), n)
		}
	}
	c.Rx = 5
	if err := w.SetChannels("veth0", c); !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "veth0 to rx 5") {
		t.Errorf("more than the maximum: %v", err)
	}
	if err := w.SetChannels("nosuch0", c); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no device: %v", err)
	}
	if err := w.SetChannels("lo", c); !errors.Is(err, host.ErrUnsupported) {
		t.Errorf("loopback: %v", err)
	}
}

func TestFeaturesOfVeth(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	addVeth(t)
	h, w := open(t), openWriter(t)
	state := func(name string) host.Feature {
		t.Helper()
		f, err := h.Ethtool.Features("veth0")
		if err != nil {
			t.Fatal(err)
		}
		state, ok := f[name]
		if !ok {
			t.Fatalf("no feature %s in %v", name, slices.Sorted(maps.Keys(f)))
		}
		return state
	}
	for _, on := range []bool{true, false, true} {
		if err := w.SetFeatures("veth0", map[string]bool{"rx-gro": on}); err != nil {
			t.Fatal(err)
		}
		if got, want := state("rx-gro"), (host.Feature{On: on, Requested: on}); got != want {
			t.Errorf("rx-gro %+v, want %+v", got, want)
		}
	}
	if got := state("rx-lro"); !got.Fixed || got.On {
		t.Errorf("rx-lro %+v, want fixed and off", got)
	}
	if err := w.SetFeatures("veth0", map[string]bool{"rx-lro": true}); !errors.Is(err, host.ErrUnsupported) || !strings.Contains(err.Error(), "rx-lro on") {
		t.Errorf("a fixed feature: %v", err)
	}
	// Segmentation needs scatter-gather, so the wish is taken but not granted.
	err := w.SetFeatures("veth0", map[string]bool{"tx-scatter-gather": false, "tx-tcp-segmentation": true})
	if err == nil || !strings.Contains(err.Error(), "not granted by the kernel or driver: tx-tcp-segmentation on") {
		t.Errorf("a wish that is not granted: %v", err)
	}
	if got, want := state("tx-tcp-segmentation"), (host.Feature{Requested: true}); got != want {
		t.Errorf("tx-tcp-segmentation %+v, want %+v", got, want)
	}
}

func TestWriteFileOfVeth(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	addVeth(t)
	h, w := open(t), openWriter(t)
	const rps = "sys/class/net/veth0/queues/rx-1/rps_cpus"
	for _, value := range []string{"1", "0"} {
		if err := w.WriteFile(rps, []byte(value+"\n")); err != nil {
			t.Fatal(err)
		}
		data, err := h.ReadFile(rps)
		got, parseErr := strconv.ParseUint(strings.ReplaceAll(strings.TrimSpace(string(data)), ",", ""), 16, 64)
		if err != nil || parseErr != nil || strconv.FormatUint(got, 16) != value {
			t.Errorf("rps_cpus %q, %v; want %s", data, err, value)
		}
	}
	err := w.WriteFile(rps, []byte("zz\n"))
	if !errors.Is(err, unix.EINVAL) || err.Error() != `write "zz" to `+rps+": invalid argument" {
		t.Errorf("nonsense: %v", err)
	}
	const timeout = "sys/class/net/veth0/gro_flush_timeout"
	if err := w.WriteFile(timeout, []byte("20000")); err != nil {
		t.Error(err)
	}
	if data, err := h.ReadFile(timeout); err != nil || string(data) != "20000\n" {
		t.Errorf("gro_flush_timeout %q, %v", data, err)
	}
}

// Whether a file may be written is told without writing, and for a read-only
// mount, as in a container, with what to do.
func TestMayWrite(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	addVeth(t)
	w := openWriter(t)
	const rps = "sys/class/net/veth0/queues/rx-1/rps_cpus"
	remount := func(flags uintptr) {
		t.Helper()
		if err := unix.Mount("", "/sys", "", unix.MS_REMOUNT|unix.MS_BIND|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.MayWrite(rps); err != nil {
		t.Error(err)
	}
	if err := w.MayWrite("sys/class/net/veth0/queues/rx-9/rps_cpus"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a queue that is not there: %v", err)
	}
	if err := w.MayWrite("etc/passwd"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("no setting: %v", err)
	}
	remount(unix.MS_RDONLY)
	if err := w.WriteFile(rps, []byte("1")); !errors.Is(err, unix.EROFS) {
		t.Errorf("it can be written: %v", err)
	}
	err := w.MayWrite(rps)
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "/sys is mounted read-only here: mount -o remount,rw /sys") {
		t.Errorf("read-only: %v", err)
	}
	if err := w.MayWrite("proc/sys/net/core/somaxconn"); err != nil {
		t.Errorf("another mount: %v", err)
	}
	fd, err := unix.Open("/"+rps, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := mountedForWriting(fd); !errors.Is(err, unix.EROFS) {
		t.Errorf("before Linux 5.8: %v", err)
	}
	unix.Close(fd)
	remount(0)
	if err := w.MayWrite(rps); err != nil {
		t.Error(err)
	}
}

func TestNetdevOfVeth(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	addVeth(t)
	h, w := open(t), openWriter(t)
	if err := w.SetFeatures("veth0", map[string]bool{"rx-gro": true}); err != nil {
		t.Fatal(err)
	}
	index := linkNamed(t, h, "veth0").Index
	napis, err := h.Netdev.NAPIs()
	if errors.Is(err, host.ErrUnsupported) {
		lacking(t, 6, 8, "napi-get", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	var mine []host.NAPI
	for _, n := range napis {
		if n.IfIndex == index {
			mine = append(mine, n)
		}
	}
	if len(mine) != 4 || mine[0].IRQ != -1 || mine[0].PID != 0 {
		t.Fatalf("NAPIs of veth0: %+v", mine)
	}
	queues, err := h.Netdev.Queues()
	if err != nil {
		t.Fatal(err)
	}
	count := map[bool]int{}
	for _, q := range queues {
		if q.IfIndex == index {
			count[q.Tx]++
		}
	}
	if count[false] != 4 || count[true] != 4 {
		t.Errorf("queues of veth0: %v", count)
	}
	if _, err := h.Netdev.QStats(); err != nil && !errors.Is(err, host.ErrUnsupported) {
		t.Errorf("qstats: %v", err)
	}

	n := mine[0]
	n.DeferHardIRQs, n.GROFlushTimeout = 3, 25000
	err = w.SetNAPI(n)
	if errors.Is(err, host.ErrUnsupported) {
		lacking(t, 6, 13, "napi-set", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	after, err := h.Netdev.NAPIs()
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range after {
		want := host.NAPI{IfIndex: got.IfIndex, ID: got.ID, IRQ: -1}
		if got.ID == n.ID {
			want = n
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("napi %d (-want +got)\n%s", got.ID, diff)
		}
	}
	n.DeferHardIRQs = 1 << 31
	if err := w.SetNAPI(n); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("set napi %d", n.ID)) {
		t.Errorf("too large a number: %v", err)
	} else {
		t.Logf("the kernel's text: %v", err)
	}
	if err := w.SetNAPI(host.NAPI{ID: 1 << 30}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such napi: %v", err)
	}
}

func TestLinksOfNamespace(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	addVeth(t)
	h := open(t)
	add := func(link netlink.Link) {
		t.Helper()
		if err := netlink.LinkAdd(link); err != nil {
			t.Fatal(err)
		}
	}
	named := func(name string) netlink.LinkAttrs {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		return attrs
	}
	add(&netlink.Bridge{LinkAttrs: named("br0")})
	veth0, veth1, bridge := linkNamed(t, h, "veth0"), linkNamed(t, h, "veth1"), linkNamed(t, h, "br0")
	// The real device of a macvlan is told as that of a VLAN.
	upper := named("mac7")
	upper.ParentIndex = veth0.Index
	add(&netlink.Macvlan{LinkAttrs: upper, Mode: netlink.MACVLAN_MODE_BRIDGE})
	port := named("veth1")
	port.Index = veth1.Index
	if err := netlink.LinkSetMasterByIndex(&netlink.Device{LinkAttrs: port}, bridge.Index); err != nil {
		t.Fatal(err)
	}
	// The kernel tells a carrier in a work queue of its own (net/core/link_watch.c,
	// once a second at most), and gives the device its discipline there.
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if linkNamed(t, h, "veth0").Running && linkNamed(t, h, "veth1").Running {
			break
		}
	}
	away := named("away0")
	pair := netlink.NewVeth(away)
	pair.PeerName = "gone0"
	add(pair)
	moveToOtherNamespace(t, "gone0")

	tests := []struct {
		got  host.Link
		want host.Link
	}{
		{linkNamed(t, h, "lo"), host.Link{Name: "lo", Index: 1, Up: true, Running: true, Loopback: true, MTU: 65536, RxQueues: 1, TxQueues: 1, Qdisc: "noqueue"}},
		{linkNamed(t, h, "veth0"), host.Link{Name: "veth0", Index: veth0.Index, Kind: "veth", Parent: veth1.Index, Up: true, Running: true, MTU: 1500, RxQueues: 4, TxQueues: 4, Qdisc: "noqueue"}},
		{linkNamed(t, h, "veth1"), host.Link{Name: "veth1", Index: veth1.Index, Kind: "veth", Parent: veth0.Index, Master: bridge.Index, Up: true, Running: true, MTU: 1500, RxQueues: 4, TxQueues: 4, Qdisc: "noqueue"}},
		{linkNamed(t, h, "mac7"), host.Link{Name: "mac7", Index: linkNamed(t, h, "mac7").Index, Kind: "macvlan", Parent: veth0.Index, MTU: 1500, RxQueues: 1, TxQueues: 1, Qdisc: "noop"}},
		{linkNamed(t, h, "br0"), host.Link{Name: "br0", Index: bridge.Index, Kind: "bridge", MTU: 1500, RxQueues: 1, TxQueues: 1, Qdisc: "noop"}},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, tt.got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", tt.want.Name, diff)
		}
	}
	if got := linkNamed(t, h, "away0"); !got.Foreign || got.Parent == 0 || got.Kind != "veth" {
		t.Errorf("a veth whose peer is elsewhere: %+v", got)
	}
}

// moveToOtherNamespace moves a device to a namespace that dies with the child.
// The test's thread comes back, or the runtime ends it with the goroutine.
func moveToOtherNamespace(t *testing.T, name string) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	other := make(chan netns.NsHandle)
	go func() {
		// Locked and never unlocked: the thread ends with this goroutine.
		runtime.LockOSThread()
		handle, err := netns.New()
		if err != nil {
			t.Error(err)
		}
		other <- handle
	}()
	handle := <-other
	t.Cleanup(func() { handle.Close() })
	if err := netlink.LinkSetNsFd(link, int(handle)); err != nil {
		t.Fatal(err)
	}
}

func TestStatsOfVeth(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	addVeth(t)
	h := open(t)
	stats, err := h.Ethtool.Stats("veth0")
	if err != nil {
		t.Fatal(err)
	}
	peer := linkNamed(t, h, "veth1").Index
	if stats[0] != (host.Stat{Name: "peer_ifindex", Value: uint64(peer)}) {
		t.Errorf("first counter %+v, want peer_ifindex %d", stats[0], peer)
	}
	info, err := h.Ethtool.DriverInfo("veth0")
	if err != nil || info.Driver != "veth" || info.Bus != "" {
		t.Errorf("driver %+v, %v", info, err)
	}
	for name, call := range map[string]func() error{
		"rings":    func() error { _, err := h.Ethtool.Rings("veth0"); return err },
		"coalesce": func() error { _, err := h.Ethtool.Coalesce("veth0"); return err },
		"rss":      func() error { _, err := h.Ethtool.RSS("veth0"); return err },
		"hash":     func() error { _, err := h.Ethtool.HashFields("veth0", "udp4"); return err },
	} {
		if err := call(); !errors.Is(err, host.ErrUnsupported) {
			t.Errorf("%s of veth0: %v", name, err)
		}
	}
}

// A tap device moderates received frames and nothing else (drivers/net/tun.c,
// tun_ethtool_ops), so that one value is there and the rest must be absent.
func TestCoalesceOfTap(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "tap0"
	if err := netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP}); err != nil {
		needs(t, false, fmt.Sprintf("tap devices: %v", err))
	}
	h, w := open(t), openWriter(t)
	if got := linkNamed(t, h, "tap0").Kind; got != "tun" {
		t.Errorf("kind %q", got)
	}
	for _, frames := range []int{8, 0, 64} {
		want := host.Coalesce{Values: map[string]int{"rx-frames": frames}}
		if err := w.SetCoalesce("tap0", want); err != nil {
			t.Fatal(err)
		}
		got, err := h.Ethtool.Coalesce("tap0")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	}
	on := true
	for _, bad := range []host.Coalesce{{AdaptiveRx: &on}, {Values: map[string]int{"rx-usecs": 8}}} {
		if err := w.SetCoalesce("tap0", bad); !errors.Is(err, host.ErrUnsupported) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	coalesceWithoutNetlink(t)
}

// coalesceWithoutNetlink pretends a kernel that has no ethtool netlink family.
func coalesceWithoutNetlink(t *testing.T) {
	t.Helper()
	m, err := openMachine(Options{})
	if err != nil {
		t.Fatal(err)
	}
	m.coalesce.ethtool.name = "nosuchfamily"
	want := host.Coalesce{Values: map[string]int{"rx-frames": 16}}
	if err := m.coalesce.write("tap0", want); err != nil {
		t.Fatal(err)
	}
	got, err := m.coalesce.read("tap0")
	if err != nil || got.Values["rx-frames"] != 16 || len(got.Values) != len(coalesceFields()) || got.AdaptiveRx == nil || *got.AdaptiveRx {
		t.Errorf("through the ioctl: %+v, %v", got, err)
	}
	if _, err := m.coalesce.read("lo"); !errors.Is(err, host.ErrUnsupported) {
		t.Errorf("loopback through the ioctl: %v", err)
	}
}

// An answer longer than its request ends at the guard page. Newer kernels look at
// the size themselves and give no strings.
func TestTooLongAnswerIsCaught(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	addVeth(t)
	c, err := openIoctler()
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	b := request(cmdGetStrings, stringsHeaderBytes+stringBytes)
	put32(b, 4, setFeatures) // the kernel has some 60
	put32(b, 8, 1)
	err = c.call("veth0", b)
	if err == nil && get32(b, 8) == 0 {
		t.Log("the kernel refused by itself")
		return
	}
	if !errors.Is(err, unix.EFAULT) {
		t.Errorf("%v with %d names", err, get32(b, 8))
	}
	if _, err := newNIC(c.call).features("veth0"); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestUnprivileged reads everything as nobody.
func TestUnprivileged(t *testing.T) {
	if !again(t, "nobody", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534, NoSetGroups: true}}) {
		return
	}
	if os.Getuid() != 65534 {
		t.Fatal("still root")
	}
	h, w := open(t), openWriter(t)
	if _, err := h.Ident(); err != nil {
		t.Error(err)
	}
	links, err := h.Links()
	if err != nil || len(links) == 0 {
		t.Fatalf("links %v, %v", links, err)
	}
	if _, err := h.Processes(); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"proc/interrupts", "proc/net/softnet_stat", "sys/class/net/lo/queues/rx-0/rps_cpus"} {
		if _, err := h.ReadFile(name); err != nil {
			t.Error(err)
		}
	}
	for _, l := range links {
		for name, err := range readEverything(h, l.Name) {
			if err != nil && !errors.Is(err, host.ErrUnsupported) {
				t.Errorf("%s of %s: %v", name, l.Name, err)
			}
		}
	}
	// Loopback's own value, so that a write that did get through would change nothing.
	const rps = "sys/class/net/lo/queues/rx-0/rps_cpus"
	value, err := h.ReadFile(rps)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.MayWrite(rps); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("may write: %v", err)
	}
	if err := w.WriteFile(rps, value); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("write: %v", err)
	}
	features, err := h.Ethtool.Features("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.SetFeatures("lo", map[string]bool{"rx-gro": !features["rx-gro"].On}); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("set a feature: %v", err)
	}
}

// readEverything asks a device all that can be asked of it.
func readEverything(h *host.Host, dev string) map[string]error {
	e, out := h.Ethtool, map[string]error{}
	_, out["driver"] = e.DriverInfo(dev)
	_, out["channels"] = e.Channels(dev)
	_, out["rings"] = e.Rings(dev)
	_, out["coalesce"] = e.Coalesce(dev)
	_, out["features"] = e.Features(dev)
	_, out["rss"] = e.RSS(dev)
	_, out["stats"] = e.Stats(dev)
	_, out["hash"] = e.HashFields(dev, "udp4")
	_, out["napis"] = h.Netdev.NAPIs()
	_, out["queues"] = h.Netdev.Queues()
	_, out["qstats"] = h.Netdev.QStats()
	return out
}

// virtioDevice finds a virtio NIC of this machine.
func virtioDevice(t testing.TB) string {
	t.Helper()
	drivers, err := filepath.Glob("/sys/class/net/*/device/driver")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range drivers {
		target, err := os.Readlink(path)
		if err == nil && filepath.Base(target) == "virtio_net" {
			return strings.Split(path, "/")[4]
		}
	}
	t.Skip("skipped: this machine has no virtio_net device")
	return ""
}

// A virtio NIC, read only, against what sysfs and the kernel's laws say.
func TestVirtio(t *testing.T) {
	dev := virtioDevice(t)
	h := open(t)
	info, err := h.Ethtool.DriverInfo(dev)
	if err != nil || info.Driver != "virtio_net" {
		t.Errorf("driver %+v, %v", info, err)
	}
	if parent, err := filepath.EvalSymlinks("/sys/class/net/" + dev + "/device"); err == nil && pciAddress.MatchString(filepath.Base(filepath.Dir(parent))) {
		if info.Bus != filepath.Base(filepath.Dir(parent)) {
			t.Errorf("bus %q, sysfs says %s", info.Bus, parent)
		}
	}
	rxQueues, err := filepath.Glob("/sys/class/net/" + dev + "/queues/rx-*")
	if err != nil {
		t.Fatal(err)
	}
	channels, err := h.Ethtool.Channels(dev)
	if err != nil || channels.Combined != len(rxQueues) || channels.MaxCombined < channels.Combined {
		t.Errorf("channels %+v, %v; sysfs has %d receive queues", channels, err, len(rxQueues))
	}
	if rings, err := h.Ethtool.Rings(dev); err != nil || rings.Rx == 0 || rings.Rx > rings.MaxRx || rings.Tx == 0 || rings.Tx > rings.MaxTx {
		t.Errorf("rings %+v, %v", rings, err)
	}
	// virtio_net supports neither of these two (virtnet_ethtool_ops, supported_coalesce_params).
	if c, err := h.Ethtool.Coalesce(dev); err != nil || c.AdaptiveTx != nil || !has(c.Values, "rx-usecs") || has(c.Values, "rx-usecs-irq") {
		t.Errorf("coalescing %+v, %v", c, err)
	}
	if f, err := h.Ethtool.Features(dev); err != nil || !f["rx-gro"].On || f["rx-gro"].Fixed {
		t.Errorf("rx-gro %+v, %v", f["rx-gro"], err)
	}
	if stats, err := h.Ethtool.Stats(dev); err != nil || len(stats) == 0 {
		t.Errorf("%d counters, %v", len(stats), err)
	}
	queues, err := h.Netdev.Queues()
	if errors.Is(err, host.ErrUnsupported) {
		lacking(t, 6, 8, "queue-get", err)
	}
	index := linkNamed(t, h, dev).Index
	rx := 0
	for _, q := range queues {
		if q.IfIndex == index && !q.Tx {
			rx++
		}
	}
	if err != nil || rx != len(rxQueues) {
		t.Errorf("netlink has %d receive queues, sysfs %d: %v", rx, len(rxQueues), err)
	}
	napis, err := h.Netdev.NAPIs()
	if err != nil {
		t.Error(err)
	}
	mine := map[int]bool{}
	for _, n := range napis {
		if n.IfIndex == index {
			mine[n.ID] = true
		}
	}
	if len(mine) < rx {
		t.Errorf("%d NAPIs for %d receive queues: %+v", len(mine), rx, napis)
	}
	for _, q := range queues {
		if q.IfIndex == index && q.NAPI >= 0 && !mine[q.NAPI] {
			t.Errorf("queue %+v has a NAPI that is not among %+v", q, napis)
		}
	}
	stats, err := h.Netdev.QStats()
	if err != nil && !errors.Is(err, host.ErrUnsupported) {
		t.Error(err)
	}
	for _, s := range stats {
		if s.IfIndex == index && !s.Tx && !has(s.Counters, "rx-packets") {
			t.Errorf("receive queue %d without rx-packets: %v", s.ID, s.Counters)
		}
	}
}

func has[V any](m map[string]V, name string) bool { _, ok := m[name]; return ok }

func TestIdent(t *testing.T) {
	id, err := open(t).Ident()
	if err != nil {
		t.Fatal(err)
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil || id.Release != strings.TrimSpace(string(release)) || id.Arch == "" {
		t.Errorf("%+v, %v; want release %s", id, err, release)
	}
	root := t.TempDir()
	put(t, root, "proc/sys/kernel/osrelease", "5.14.0-x\n")
	elsewhere, err := Open(Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	if id, err := elsewhere.Ident(); err != nil || id.Release != "5.14.0-x" {
		t.Errorf("another root: %+v, %v", id, err)
	}
}

func TestNamesThatAreNoDevice(t *testing.T) {
	h, w := open(t), openWriter(t)
	for _, dev := range []string{"", "nosuch0", "a-name-of-16-byt", "lo\x00x", "../lo"} {
		for name, err := range readEverything(h, dev) {
			if netdev := name == "napis" || name == "queues" || name == "qstats"; !netdev && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s of %q: %v", name, dev, err)
			}
		}
		if err := w.SetFeatures(dev, map[string]bool{"rx-gro": true}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("set features of %q: %v", dev, err)
		}
	}
}

// Nothing can be written behind the requests' memory: of 8 bytes from 4 before
// its end, the kernel delivers 4.
func TestGuardPage(t *testing.T) {
	c, err := openIoctler()
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	zero, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer zero.Close()
	last := unsafe.Pointer(&c.arena[len(c.arena)-4])
	n, _, errno := unix.Syscall(unix.SYS_READ, zero.Fd(), uintptr(last), 8)
	if errno != 0 || n != 4 {
		t.Errorf("read %d bytes, errno %d; want 4", n, errno)
	}
}

func TestMissingFamily(t *testing.T) {
	m, err := openMachine(Options{})
	if err != nil {
		t.Fatal(err)
	}
	missing := netdevSource{family{m.netdev.family.conn, "nosuchfamily"}}
	if _, err := missing.napis(); !errors.Is(err, host.ErrUnsupported) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no family: %v", err)
	}
	if _, _, err := m.netdev.family.resolve(); err != nil {
		lacking(t, 6, 7, "the netdev family", err)
	}
	_, err = dump(m.netdev.family, "of a command to come", 200, nil, decodeNAPI)
	if !errors.Is(err, host.ErrUnsupported) {
		t.Errorf("no command: %v", err)
	}
}

// Readers share sockets, memory and names.
func TestConcurrentReading(t *testing.T) {
	h := open(t)
	want := readEverything(h, "lo")
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for name, err := range readEverything(h, "lo") {
				if (err == nil) != (want[name] == nil) {
					t.Errorf("%s of lo: %v, alone %v", name, err, want[name])
				}
			}
			if _, err := h.Links(); err != nil {
				t.Error(err)
			}
			if _, err := h.ReadFile("proc/interrupts"); err != nil {
				t.Error(err)
			}
			if _, err := h.Processes(); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}

// What nothing refers to any more gives its descriptors back.
func TestDescriptorsAreGivenBack(t *testing.T) {
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	open(t)
	before := count()
	for range 20 {
		open(t)
	}
	for range 50 {
		runtime.GC()
		if count() <= before+1 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d descriptors, %d before", count(), before)
}

func TestOpenMissingRoot(t *testing.T) {
	if _, err := Open(Options{Root: filepath.Join(t.TempDir(), "none")}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func BenchmarkReadFile(b *testing.B) {
	h := open(b)
	for _, name := range []string{"sys/class/net/lo/queues/rx-0/rps_cpus", "proc/sys/net/core/netdev_budget", "proc/interrupts"} {
		b.Run(filepath.Base(name), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := h.ReadFile(name); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkLinks(b *testing.B) {
	h := open(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.Links(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkProcesses(b *testing.B) {
	h := open(b)
	pids, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.Processes(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(pids)), "ns/process")
}

func BenchmarkEthtool(b *testing.B) {
	dev := virtioDevice(b)
	h := open(b)
	b.ReportAllocs()
	for b.Loop() {
		readEverything(h, dev)
	}
}
