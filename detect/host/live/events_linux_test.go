package live

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/napitune/napitune/detect/host"
)

func openEvents(t *testing.T) *host.Events {
	t.Helper()
	e, err := OpenEvents(Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		if err := e.Failed(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// await gathers events until one like it came.
func await(t *testing.T, e *host.Events, like func(host.Event) bool, what string) []host.Event {
	t.Helper()
	var got []host.Event
	end := time.After(2 * time.Second)
	for {
		select {
		case <-e.Ready:
			got = append(got, e.Take()...)
			if slices.ContainsFunc(got, like) {
				return got
			}
		case <-end:
			t.Fatalf("%s: no such event within 2 s; there were %+v, failed: %v", what, got, e.Failed())
		}
	}
}

// quiet lets what is under way arrive and forgets it.
func quiet(e *host.Events) {
	time.Sleep(100 * time.Millisecond)
	e.Take()
	select {
	case <-e.Ready:
	default:
	}
}

func linkOf(t *testing.T, name string) netlink.Link {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return link
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestEventsOfDevices(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	addVeth(t)
	e := openEvents(t)
	is := func(kind host.EventKind, dev string) func(host.Event) bool {
		return func(e host.Event) bool { return e.Kind == kind && e.Dev == dev }
	}
	for _, step := range []struct {
		what string
		do   func() error
		want func(host.Event) bool
	}{
		{"down", func() error { return netlink.LinkSetDown(linkOf(t, "veth0")) }, is(host.LinkChanged, "veth0")},
		{"up", func() error { return netlink.LinkSetUp(linkOf(t, "veth0")) }, is(host.LinkChanged, "veth0")},
		{"MTU", func() error { return netlink.LinkSetMTU(linkOf(t, "veth0"), 1400) }, is(host.LinkChanged, "veth0")},
		{"address", func() error {
			addr, err := netlink.ParseAddr("10.98.0.1/24")
			must(t, err)
			return netlink.AddrAdd(linkOf(t, "veth0"), addr)
		}, is(host.AddressChanged, "veth0")},
		{"new device", func() error { return addPair("dum0") }, is(host.DeviceChanged, "dum0")},
		{"rename", func() error { return netlink.LinkSetName(linkOf(t, "dum0"), "dum1") }, is(host.DeviceChanged, "dum1")},
		{"removal", func() error { return netlink.LinkDel(linkOf(t, "dum1")) }, is(host.DeviceChanged, "dum1")},
		{"channels", func() error {
			w := openWriter(t)
			return w.SetChannels("veth0", host.Channels{Rx: 2, Tx: 2})
		}, func(e host.Event) bool {
			return e.Kind == host.SettingChanged && e.Dev == "veth0" && e.Setting == "channels"
		}},
		{"queues", func() error {
			w := openWriter(t)
			return w.SetChannels("veth0", host.Channels{Rx: 4, Tx: 4})
		}, is(host.QueuesChanged, "veth0")},
	} {
		quiet(e)
		must(t, step.do())
		got := await(t, e, step.want, step.what)
		t.Logf("%-10s %+v", step.what, got)
		if slices.ContainsFunc(got, func(e host.Event) bool { return e.Kind == host.EventsLost }) {
			t.Errorf("%s: events were lost", step.what)
		}
	}
}

func TestEventsOfMoves(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	addVeth(t)
	e := openEvents(t)
	quiet(e)
	home, err := netns.Get()
	must(t, err)
	away, err := netns.New()
	must(t, err)
	must(t, netns.Set(home))
	must(t, netlink.LinkSetNsFd(linkOf(t, "veth0"), int(away)))
	await(t, e, func(e host.Event) bool { return e.Kind == host.DeviceChanged && e.Dev == "veth0" }, "move away")
	quiet(e)
	there, err := netlink.NewHandleAt(away)
	must(t, err)
	link, err := there.LinkByName("veth0")
	must(t, err)
	must(t, there.LinkSetNsFd(link, int(home)))
	await(t, e, func(e host.Event) bool { return e.Kind == host.DeviceChanged && e.Dev == "veth0" }, "move back")
}

// Another process's write is told with its name; an own one is not.
func TestEventsOfWrites(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	addVeth(t)
	e := openEvents(t)
	if !e.Names {
		t.Error("root is not told who writes")
	}
	const rps, sysctl = "sys/class/net/veth0/queues/rx-1/rps_cpus", "proc/sys/net/ipv4/ip_forward"
	must(t, e.Watch([]string{rps, sysctl, "sys/class/net/gone/threaded"}))
	for _, path := range []string{rps, sysctl} {
		quiet(e)
		must(t, exec.Command("sh", "-c", "echo 1 > /"+path).Run())
		got := await(t, e, func(e host.Event) bool { return e.Kind == host.FileWritten && e.Path == path }, path)
		if i := slices.IndexFunc(got, func(e host.Event) bool { return e.PID != 0 && (e.By == "sh" || e.By == "") }); i < 0 {
			t.Errorf("%s: the writer is not told: %+v", path, got)
		}
		quiet(e)
		must(t, os.WriteFile("/"+path, []byte("1"), 0))
		time.Sleep(100 * time.Millisecond)
		if own := writesIn(e.Take()); len(own) > 0 {
			t.Errorf("%s: an own write is told: %+v", path, own)
		}
	}
	must(t, e.Watch([]string{sysctl}))
	quiet(e)
	must(t, exec.Command("sh", "-c", "echo 0 > /"+rps).Run())
	time.Sleep(100 * time.Millisecond)
	if got := writesIn(e.Take()); len(got) > 0 {
		t.Errorf("%s is not watched any more: %+v", rps, got)
	}
}

// writesIn leaves out what the kernel itself tells late on a busy machine, such
// as the addresses that a new link gets.
func writesIn(events []host.Event) []host.Event {
	return slices.DeleteFunc(events, func(e host.Event) bool { return e.Kind != host.FileWritten })
}

// Without the privilege for fanotify, inotify tells of the same writes.
func TestEventsOfWritesByInotify(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	addVeth(t)
	f, err := openFiles("/")
	must(t, err)
	p := newPending()
	w, err := openInotify(&writes{files: f, pending: p, marks: map[string]*mark{}, byID: map[identity]string{}, byWD: map[int32]string{}})
	must(t, err)
	ended := make(chan error, 1)
	go func() { ended <- w.read() }()
	const rps, sysctl = "sys/class/net/veth0/queues/rx-1/rps_cpus", "proc/sys/net/ipv4/ip_forward"
	must(t, w.watch([]string{rps, sysctl}))
	must(t, w.watch([]string{rps, sysctl}))
	for _, path := range []string{rps, sysctl} {
		must(t, exec.Command("sh", "-c", "echo 1 > /"+path).Run())
		select {
		case <-p.ready:
		case <-time.After(2 * time.Second):
			t.Fatalf("%s: no event", path)
		}
		time.Sleep(50 * time.Millisecond)
		if diff := cmp.Diff([]host.Event{{Kind: host.FileWritten, Path: path}}, p.take()); diff != "" {
			t.Error(diff)
		}
	}
	// Who takes after an own write has it behind him, whatever the reader does.
	l := &listener{pending: p, writes: w}
	late := 0
	for range 2000 {
		must(t, os.WriteFile("/"+rps, []byte("1"), 0))
		if !slices.Contains(l.take(), host.Event{Kind: host.FileWritten, Path: rps}) {
			late++
		}
		runtime.Gosched()
		late += len(writesIn(l.take()))
	}
	if late > 0 {
		t.Errorf("%d of 2000 writes, or second tellings of them, came late", late)
	}
	must(t, w.close())
	must(t, <-ended)
	if _, err := w.drain(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

// A storm that no buffer holds is told as such, and the links are known
// afterwards.
func TestEventsAreNotLostSilently(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	addVeth(t)
	f, err := openFiles("/")
	must(t, err)
	route, err := openConn(unix.NETLINK_ROUTE)
	must(t, err)
	l := &listener{pending: newPending(), files: f, route: route, links: map[int]linkState{}, addresses: map[string]bool{}}
	must(t, l.listen(unix.NETLINK_ROUTE, []int{unix.RTNLGRP_LINK}, l.takeRoute))
	raw, err := l.sources[0].file.SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) {
		if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4096); err != nil {
			t.Error(err)
		}
	}))
	for i := range 50 {
		must(t, addPair(fmt.Sprintf("d%d", i)))
	}
	ended := make(chan error, 1)
	go func() { ended <- l.sources[0].read() }()
	time.Sleep(200 * time.Millisecond)
	if !slices.Contains(l.pending.take(), host.Event{Kind: host.EventsLost}) {
		t.Error("the loss is not told")
	}
	l.mu.Lock()
	if len(l.links) < 103 {
		t.Errorf("%d links are known, there are at least 103", len(l.links))
	}
	l.mu.Unlock()
	must(t, l.sources[0].file.Close())
	<-ended
}

func TestPendingIsBounded(t *testing.T) {
	p := newPending()
	for i := range 3 * maxPending {
		p.add(host.Event{Kind: host.DeviceChanged, Dev: fmt.Sprint(i)})
	}
	got := p.take()
	if len(got) > maxPending || !slices.Contains(got, host.Event{Kind: host.EventsLost}) {
		t.Errorf("%d events wait, with a loss told: %v", len(got), slices.Contains(got, host.Event{Kind: host.EventsLost}))
	}
	if len(p.take()) != 0 {
		t.Error("events are taken twice")
	}
}

// addPair makes a veth pair: name and name with a p.
func addPair(name string) error {
	veth := netlink.NewVeth(netlink.LinkAttrs{Name: name})
	veth.PeerName = name + "p"
	return netlink.LinkAdd(veth)
}

func uevent(fields ...string) []byte {
	var out []byte
	for _, f := range fields {
		out = append(append(out, f...), 0)
	}
	return out
}

func TestDecodeUevent(t *testing.T) {
	for _, test := range []struct {
		fields []string
		want   host.Event
		ok     bool
	}{
		{[]string{"offline@/devices/system/cpu/cpu1", "ACTION=offline", "DEVPATH=/devices/system/cpu/cpu1", "SUBSYSTEM=cpu", "SEQNUM=1"}, host.Event{Kind: host.CPUChanged}, true},
		{[]string{"change@/devices/system/cpu/cpu1", "ACTION=change", "SUBSYSTEM=cpu"}, host.Event{}, false},
		{[]string{"move@/devices/virtual/net/b", "ACTION=move", "DEVPATH=/devices/virtual/net/b", "SUBSYSTEM=net", "DEVPATH_OLD=/devices/virtual/net/a", "INTERFACE=b"}, host.Event{Kind: host.DeviceChanged, Dev: "b"}, true},
		{[]string{"add@/devices/pci0/net/eth1/queues/rx-3", "ACTION=add", "DEVPATH=/devices/pci0/net/eth1/queues/rx-3", "SUBSYSTEM=queues"}, host.Event{Kind: host.QueuesChanged, Dev: "eth1"}, true},
		{[]string{"add@/x", "ACTION=add", "DEVPATH=/x", "SUBSYSTEM=queues"}, host.Event{Kind: host.QueuesChanged}, true},
		{[]string{"add@/block", "ACTION=add", "SUBSYSTEM=block"}, host.Event{}, false},
		{nil, host.Event{}, false},
	} {
		got, ok := decodeUevent(uevent(test.fields...))
		if diff := cmp.Diff(test.want, got); diff != "" || ok != test.ok {
			t.Errorf("%q: ok %v, want %v\n%s", test.fields, ok, test.ok, diff)
		}
	}
}

// FuzzEventMessages: whatever a message holds, reading it ends and keeps the
// number of events small.
func FuzzEventMessages(f *testing.F) {
	link := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(link[4:], 7)
	link = appendAttr(link, unix.IFLA_IFNAME, []byte("eth7\x00"))
	f.Add(message(unix.RTM_NEWLINK, link))
	f.Add(message(unix.RTM_NEWADDR, appendAttr(make([]byte, unix.SizeofIfAddrmsg), unix.IFA_ADDRESS, []byte{10, 0, 0, 1})))
	header := appendAttr(nil, 1|unix.NLA_F_NESTED, appendAttr(nil, unix.ETHTOOL_A_HEADER_DEV_NAME, []byte("eth7\x00")))
	f.Add(message(21, append(genericHeader(unix.ETHTOOL_MSG_CHANNELS_NTF, 1), header...)))
	f.Add(message(22, append(genericHeader(6, 1), appendUint32Attr(nil, 2, 7)...)))
	f.Add(uevent("add@/x", "ACTION=add", "SUBSYSTEM=queues", "DEVPATH=/a/net/e/queues/rx-0"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l := &listener{pending: newPending(), links: map[int]linkState{}, addresses: map[string]bool{}, families: map[uint16]string{21: unix.ETHTOOL_GENL_NAME, 22: "netdev"}}
		l.takeRoute(bytes.Clone(b))
		l.takeGeneric(bytes.Clone(b))
		l.takeUevent(bytes.Clone(b))
		w := &writes{pending: l.pending, byWD: map[int32]string{}}
		w.takeInotify(bytes.Clone(b))
		if n := len(l.pending.take()); n > len(b)+8 {
			t.Errorf("%d events of %d bytes", n, len(b))
		}
	})
}

func message(kind uint16, payload []byte) []byte {
	out := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(payload)))
	out = binary.NativeEndian.AppendUint16(out, kind)
	return append(append(out, make([]byte, unix.NLMSG_HDRLEN-6)...), payload...)
}
