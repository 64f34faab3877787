package live

import (
	"encoding/binary"
	"errors"
	"math"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/napitune/napitune/detect/host"
)

func u32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
func u64(v uint64) []byte { return binary.NativeEndian.AppendUint64(nil, v) }

// attrs joins pairs of type and value.
func attrs(pairs ...any) []byte {
	var b []byte
	for i := 0; i < len(pairs); i += 2 {
		b = appendAttr(b, uint16(pairs[i].(int)), pairs[i+1].([]byte))
	}
	return b
}

func TestDecodeNAPI(t *testing.T) {
	tests := []struct {
		name string
		in   []byte
		want host.NAPI
		fail bool
	}{
		{name: "all", in: attrs(1, u32(4), 2, u32(8193), 3, u32(38), 4, u32(120), 5, u32(2), 6, u64(20000), 7, u32(5), 8, u32(1)),
			want: host.NAPI{IfIndex: 4, ID: 8193, IRQ: 38, PID: 120, DeferHardIRQs: 2, GROFlushTimeout: 20000, IRQSuspend: 5, Threaded: 1}},
		{name: "no irq and no pid", in: attrs(1, u32(4), 2, u32(8193)), want: host.NAPI{IfIndex: 4, ID: 8193, IRQ: -1}},
		{name: "eight-byte timeout", in: attrs(1, u32(4), 2, u32(1), 6, u64(math.MaxUint64)),
			want: host.NAPI{IfIndex: 4, ID: 1, IRQ: -1, GROFlushTimeout: math.MaxUint64}},
		{name: "unknown attribute", in: attrs(1, u32(4), 2, u32(1), 99, []byte("xyz")), want: host.NAPI{IfIndex: 4, ID: 1, IRQ: -1}},
		{name: "nested flag on the type", in: attrs(1|unix.NLA_F_NESTED, u32(4), 2, u32(1)), want: host.NAPI{IfIndex: 4, ID: 1, IRQ: -1}},
		{name: "no id", in: attrs(1, u32(4)), fail: true},
		{name: "empty", in: nil, fail: true},
		{name: "two-byte number", in: attrs(1, []byte{1, 0}, 2, u32(1)), fail: true},
		{name: "huge id", in: attrs(1, u32(4), 2, u64(1<<40)), fail: true},
		{name: "cut", in: attrs(1, u32(4), 2, u32(1))[:14], fail: true},
		{name: "stray bytes", in: append(attrs(1, u32(4), 2, u32(1)), 1, 2), fail: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decodeNAPI(tt.in)
			if (err != nil) != tt.fail {
				t.Fatalf("error %v, want one: %t", err, tt.fail)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestDecodeQueue(t *testing.T) {
	tests := []struct {
		name string
		in   []byte
		want host.Queue
		fail bool
	}{
		{name: "receive", in: attrs(1, u32(0), 2, u32(4), 3, u32(0), 4, u32(8193)), want: host.Queue{IfIndex: 4, NAPI: 8193}},
		{name: "transmit without napi", in: attrs(1, u32(3), 2, u32(4), 3, u32(1)), want: host.Queue{IfIndex: 4, ID: 3, Tx: true, NAPI: -1}},
		{name: "no type", in: attrs(1, u32(3), 2, u32(4)), fail: true},
		{name: "new type", in: attrs(1, u32(3), 2, u32(4), 3, u32(2)), fail: true},
		{name: "no number", in: attrs(2, u32(4), 3, u32(1)), fail: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decodeQueue(tt.in)
			if (err != nil) != tt.fail {
				t.Fatalf("error %v, want one: %t", err, tt.fail)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestDecodeQStat(t *testing.T) {
	in := attrs(1, u32(4), 2, u32(1), 3, u32(0), 10, u64(1<<40), 11, u32(9), 33, u32(1), 34, u32(2), 35, u32(77))
	got, err := decodeQStat(in)
	if err != nil {
		t.Fatal(err)
	}
	want := host.QStat{IfIndex: 4, Tx: true, Counters: map[string]uint64{"tx-packets": 1 << 40, "tx-bytes": 9, "tx-stop": 1, "tx-wake": 2}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if _, err := decodeQStat(attrs(1, u32(4), 2, u32(1))); err == nil {
		t.Error("a counter object without a queue number was taken")
	}
}

func link(index int32, flags uint32, pairs ...any) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], flags)
	return append(b, attrs(pairs...)...)
}

func TestDecodeLink(t *testing.T) {
	name := []byte("eth0\x00")
	tests := []struct {
		name string
		in   []byte
		want host.Link
		fail bool
	}{
		{name: "plain", in: link(4, unix.IFF_UP|unix.IFF_RUNNING, unix.IFLA_IFNAME, name, unix.IFLA_MTU, u32(1400), unix.IFLA_NUM_RX_QUEUES, u32(8), unix.IFLA_NUM_TX_QUEUES, u32(9), unix.IFLA_QDISC, []byte("mq\x00")),
			want: host.Link{Name: "eth0", Index: 4, Up: true, Running: true, MTU: 1400, RxQueues: 8, TxQueues: 9, Qdisc: "mq"}},
		{name: "tun keeps its kind", in: link(5, 0, unix.IFLA_IFNAME, name, unix.IFLA_LINKINFO, attrs(unix.IFLA_INFO_KIND, []byte("tun\x00"))),
			want: host.Link{Name: "eth0", Index: 5, Kind: "tun"}},
		{name: "foreign peer", in: link(5, 0, unix.IFLA_IFNAME, name, unix.IFLA_LINK, u32(7), unix.IFLA_LINK_NETNSID, u32(0), unix.IFLA_MASTER, u32(3)),
			want: host.Link{Name: "eth0", Index: 5, Parent: 7, Foreign: true, Master: 3}},
		{name: "xdp", in: link(5, unix.IFF_LOOPBACK, unix.IFLA_IFNAME, name, unix.IFLA_XDP|unix.NLA_F_NESTED, attrs(iflaXDPAttached, []byte{2})),
			want: host.Link{Name: "eth0", Index: 5, Loopback: true, XDP: true}},
		{name: "no xdp", in: link(5, 0, unix.IFLA_IFNAME, name, unix.IFLA_XDP, attrs(iflaXDPAttached, []byte{0})), want: host.Link{Name: "eth0", Index: 5}},
		{name: "short switch id is passed over", in: link(5, 0, unix.IFLA_IFNAME, name, unix.IFLA_PHYS_SWITCH_ID, []byte{1}), want: host.Link{Name: "eth0", Index: 5}},
		{name: "no name", in: link(5, 0, unix.IFLA_MTU, u32(1)), fail: true},
		{name: "negative index", in: link(-1, 0, unix.IFLA_IFNAME, name), fail: true},
		{name: "short", in: make([]byte, 15), fail: true},
		{name: "broken kind", in: link(5, 0, unix.IFLA_IFNAME, name, unix.IFLA_LINKINFO, []byte{9, 9, 9}), fail: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decodeLink(tt.in)
			if (err != nil) != tt.fail {
				t.Fatalf("error %v, want one: %t", err, tt.fail)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestDecodeCoalesce(t *testing.T) {
	yes, no := true, false
	fields := coalesceFields()
	got, err := decodeCoalesce(fields, attrs(1|unix.NLA_F_NESTED, attrs(2, []byte("eth0\x00")), 2, u32(50), 3, u32(0), 0xb, []byte{1}, 0xc, []byte{0}, 0x18, []byte{1}))
	if err != nil {
		t.Fatal(err)
	}
	want := host.Coalesce{AdaptiveRx: &yes, AdaptiveTx: &no, Values: map[string]int{"rx-usecs": 50, "rx-frames": 0}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// Encoding a change and decoding it again gives the change: the request and
// the answer share their attributes.
func TestEncodeCoalesce(t *testing.T) {
	on := true
	fields := coalesceFields()
	change := host.Coalesce{AdaptiveTx: &on, Values: map[string]int{}}
	for i, f := range fields {
		change.Values[f.name] = i
	}
	got, err := decodeCoalesce(fields, encodeCoalesce(fields, "eth0", change))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(change, got); diff != "" {
		t.Errorf("netlink (-want +got)\n%s", diff)
	}
	raw := coalesceIntoIoctl(fields, coalesceIoctlZero(), change)
	off := false
	change.AdaptiveRx = &off // the ioctl has no "not told"
	if diff := cmp.Diff(change, coalesceFromIoctl(fields, raw)); diff != "" {
		t.Errorf("ioctl (-want +got)\n%s", diff)
	}
}

func TestCoalesceChange(t *testing.T) {
	yes, no := true, false
	fields := coalesceFields()
	now := host.Coalesce{AdaptiveRx: &no, Values: map[string]int{"rx-usecs": 0, "tx-frames": 1}}
	tests := []struct {
		name string
		want host.Coalesce
		out  host.Coalesce
		fail bool
	}{
		{name: "same", want: now, out: host.Coalesce{Values: map[string]int{}}},
		{name: "one value", want: host.Coalesce{AdaptiveRx: &no, Values: map[string]int{"rx-usecs": 8, "tx-frames": 1}},
			out: host.Coalesce{Values: map[string]int{"rx-usecs": 8}}},
		{name: "switch", want: host.Coalesce{AdaptiveRx: &yes}, out: host.Coalesce{AdaptiveRx: &yes, Values: map[string]int{}}},
		{name: "switch that is not there", want: host.Coalesce{AdaptiveTx: &yes}, fail: true},
		{name: "value that is not there", want: host.Coalesce{Values: map[string]int{"rx-frames": 8}}, fail: true},
		{name: "negative", want: host.Coalesce{Values: map[string]int{"rx-usecs": -1}}, fail: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := coalesceChange(fields, "set", now, tt.want)
			if (err != nil) != tt.fail {
				t.Fatalf("error %v, want one: %t", err, tt.fail)
			}
			if diff := cmp.Diff(tt.out, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestNAPIChanges(t *testing.T) {
	old := host.NAPI{IfIndex: 4, ID: 9, IRQ: 38, DeferHardIRQs: 1}
	if b := napiChanges(old, old); b != nil {
		t.Errorf("no change sends %x", b)
	}
	want := old
	want.GROFlushTimeout, want.DeferHardIRQs, want.IRQ, want.PID = 1<<33, 0, -1, 7
	got := map[uint16]uint64{}
	err := eachAttr(napiChanges(old, want), func(kind uint16, value []byte) (err error) {
		got[kind], err = attrUint(value)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[uint16]uint64{napiID: 9, napiDeferHardIRQs: 0, napiGROFlushTimeout: 1 << 33}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestDecodeFamily(t *testing.T) {
	id, version, err := decodeFamily(attrs(unix.CTRL_ATTR_FAMILY_NAME, []byte("netdev\x00"), unix.CTRL_ATTR_FAMILY_ID, []byte{0x1c, 0}, unix.CTRL_ATTR_VERSION, u32(1)))
	if wantID := binary.NativeEndian.Uint16([]byte{0x1c, 0}); err != nil || id != wantID || version != 1 {
		t.Errorf("family %d version %d: %v", id, version, err)
	}
	if _, _, err := decodeFamily(attrs(unix.CTRL_ATTR_FAMILY_ID, []byte{1})); err == nil {
		t.Error("a family number of one byte was taken")
	}
}

func TestRefusal(t *testing.T) {
	echo := append(u32(22), make([]byte, 20)...) // a request of 22 bytes, padded
	text := attrs(errAttrText, []byte("no such queue\x00"))
	eperm := u32(^uint32(unix.EPERM) + 1)
	join := func(parts ...[]byte) (b []byte) {
		for _, p := range parts {
			b = append(b, p...)
		}
		return b
	}
	tests := []struct {
		name  string
		kind  uint16
		flags uint16
		in    []byte
		want  string
	}{
		{"acknowledged", unix.NLMSG_ERROR, 0, join(u32(0), echo), ""},
		{"end of a dump", unix.NLMSG_DONE, unix.NLM_F_MULTI, u32(0), ""},
		{"end without a number", unix.NLMSG_DONE, 0, nil, ""},
		{"no text", unix.NLMSG_ERROR, 0, join(eperm, echo), "operation not permitted"},
		{"text", unix.NLMSG_ERROR, flagTexts, join(eperm, echo, text), "operation not permitted: no such queue"},
		{"text behind a capped echo", unix.NLMSG_ERROR, flagTexts | flagCapped, join(eperm, echo[:16], text), "operation not permitted: no such queue"},
		{"text at the end of a dump", unix.NLMSG_DONE, flagTexts, join(eperm, text), "operation not permitted: no such queue"},
		{"echo longer than the message", unix.NLMSG_ERROR, flagTexts, join(eperm, u32(4000), make([]byte, 20)), "operation not permitted"},
		{"cut text", unix.NLMSG_ERROR, flagTexts, join(eperm, echo, text[:6]), "operation not permitted"},
		{"nothing", unix.NLMSG_ERROR, 0, nil, "inconclusive answer: netlink error of 0 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			if err := refusal(tt.kind, tt.flags, tt.in); err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

func TestReply(t *testing.T) {
	message := func(kind, flags uint16, data ...byte) syscall.NetlinkMessage {
		return syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: kind, Flags: flags}, Data: data}
	}
	const netdev = 0x1c
	tests := []struct {
		name     string
		single   bool
		messages []syscall.NetlinkMessage
		answers  int
		done     bool
		err      error
	}{
		{name: "dump without the flag for more", messages: []syscall.NetlinkMessage{message(netdev, 0, 1), message(netdev, 0, 2), message(unix.NLMSG_DONE, 0, 0, 0, 0, 0)}, answers: 2, done: true},
		{name: "dump that goes on", messages: []syscall.NetlinkMessage{message(netdev, unix.NLM_F_MULTI, 1)}, answers: 1},
		{name: "torn in the middle", messages: []syscall.NetlinkMessage{message(netdev, unix.NLM_F_DUMP_INTR, 1), message(unix.NLMSG_DONE, 0)}, answers: 1, done: true, err: errTorn},
		{name: "torn at the end", messages: []syscall.NetlinkMessage{message(netdev, 0, 1), message(unix.NLMSG_DONE, unix.NLM_F_DUMP_INTR)}, answers: 1, done: true, err: errTorn},
		{name: "one answer", single: true, messages: []syscall.NetlinkMessage{message(netdev, 0, 1)}, answers: 1, done: true},
		{name: "refused", single: true, messages: []syscall.NetlinkMessage{message(unix.NLMSG_ERROR, 0, u32(^uint32(unix.EBUSY)+1)...)}, done: true, err: unix.EBUSY},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := reply{single: tt.single}
			var err error
			for _, m := range tt.messages {
				err = errors.Join(err, r.take(m))
			}
			if len(r.answers) != tt.answers || r.done != tt.done || !errors.Is(err, tt.err) {
				t.Errorf("%d answers, done %t, %v", len(r.answers), r.done, err)
			}
		})
	}
}

// FuzzNetlink: no decoder panics, and an error comes with a zero value.
func FuzzNetlink(f *testing.F) {
	f.Add(attrs(1, u32(4), 2, u32(8193), 3, u32(38), 6, u64(20000)))
	f.Add(attrs(1, u32(4), 2, u32(1), 3, u32(0), 10, u64(1<<40)))
	f.Add(link(4, 1, unix.IFLA_IFNAME, []byte("eth0\x00"), unix.IFLA_LINKINFO, attrs(1, []byte("veth\x00"))))
	f.Add([]byte{5, 0, 1, 0, 9})
	fields := coalesceFields()
	f.Fuzz(func(t *testing.T, b []byte) {
		napi, err := decodeNAPI(b)
		zeroOnError(t, "napi", err, cmp.Equal(napi, host.NAPI{}))
		queue, err := decodeQueue(b)
		zeroOnError(t, "queue", err, cmp.Equal(queue, host.Queue{}))
		qstat, err := decodeQStat(b)
		zeroOnError(t, "qstat", err, cmp.Equal(qstat, host.QStat{}))
		l, err := decodeLink(b)
		zeroOnError(t, "link", err, cmp.Equal(l, host.Link{}))
		c, err := decodeCoalesce(fields, b)
		zeroOnError(t, "coalesce", err, cmp.Equal(c, host.Coalesce{}))
		for _, kind := range []uint16{unix.NLMSG_DONE, unix.NLMSG_ERROR} {
			_ = refusal(kind, flagTexts, b)
			_ = refusal(kind, flagTexts|flagCapped, b)
		}
		id, version, err := decodeFamily(b)
		if err != nil && (id != 0 || version != 0) {
			t.Errorf("family: error %v with a value", err)
		}
	})
}

func zeroOnError(t *testing.T, what string, err error, zero bool) {
	t.Helper()
	if (err != nil) != zero {
		t.Errorf("%s: error %v, zero value %t", what, err, zero)
	}
}

func FuzzStat(f *testing.F) {
	f.Add([]byte("17 (ksoftirqd/0) S 2 0 0 0 -1 69238848 0 0 0 0 13 45 0 0 20 0 1 0 3 0 0 18446744073709551615 0 0 0 0 0 0 0 2147483647 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"))
	f.Add([]byte("1 (a) b) (c) S"))
	f.Add([]byte(")("))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseStat(b)
		if (err != nil) != (s == taskStat{}) && (err != nil || s.pid != 0) {
			t.Errorf("%q: error %v, value %+v", b, err, s)
		}
		eachDirent(b, func(name []byte) {
			if len(name) == 0 {
				t.Error("empty directory entry")
			}
		})
		_ = allowedCPUs(b)
		_ = argsText(b)
	})
}

func TestParseStat(t *testing.T) {
	const tail = " S 2 0 0 0 -1 69238848 0 0 0 0 13 45 0 0 20 0 1 0 3 0 0 18446744073709551615 0 0 0 0 0 0 0 2147483647 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
	tests := []struct {
		name, in string
		want     taskStat
		fail     bool
	}{
		{name: "kernel thread", in: "17 (ksoftirqd/0)" + tail, want: taskStat{17, "ksoftirqd/0", 69238848, 58, 1}},
		{name: "name with parentheses and blanks", in: "17 (a) b (c d)" + tail, want: taskStat{17, "a) b (c d", 69238848, 58, 1}},
		{name: "name with a newline", in: "17 (a\n1 (b))" + tail, want: taskStat{17, "a\n1 (b)", 69238848, 58, 1}},
		{name: "no name", in: "17 ksoftirqd" + tail, fail: true},
		{name: "cut", in: "17 (ksoftirqd/0) S 2 0 0 0 -1", fail: true},
		{name: "empty", fail: true},
		{name: "no number", in: "x (a)" + tail, fail: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseStat([]byte(tt.in))
			if (err != nil) != tt.fail {
				t.Fatalf("error %v, want one: %t", err, tt.fail)
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(taskStat{})); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}
