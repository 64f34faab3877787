package live

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/napitune/napitune/detect/host"
)

// device is a NIC behind a pretended SIOCETHTOOL, with the kernel's rules on sizes.
type device struct {
	table     []uint32
	key       []byte
	function  uint8
	transform uint8
	rings     uint64
	onlyIndir bool // an old driver without ETHTOOL_GRSSH

	counters []host.Stat
	grow     func(d *device) // runs after each answer about sizes or names

	features []feature
	hash     map[uint32]uint64
	writes   int
}

type feature struct {
	name                             string
	available, wanted, active, never bool
	granted                          func(bool) bool // what the driver makes of a wish
}

func (d *device) call(dev string, b []byte) error {
	if dev != "eth0" {
		return unix.ENODEV
	}
	switch cmd := get32(b, 0); cmd {
	case cmdGetRSS:
		return d.getRSS(b)
	case cmdSetRSS:
		return d.setRSS(b)
	case cmdGetIndirection:
		if get32(b, 4) != 0 && int(get32(b, 4)) != len(d.table) {
			return unix.EINVAL
		}
		d.putTable(b, indirHeaderBytes, get32(b, 4) != 0)
		put32(b, 4, uint32(len(d.table)))
		return nil
	case cmdSetIndirection:
		return d.takeTable(b, int(get32(b, 4)), indirHeaderBytes)
	case cmdGetRxRings:
		binary.NativeEndian.PutUint64(b[rxnfcDataAt:], d.rings)
		return nil
	case cmdGetHashFields:
		bits, ok := d.hash[get32(b, rxnfcFlowAt)]
		if !ok {
			return unix.EINVAL
		}
		binary.NativeEndian.PutUint64(b[rxnfcDataAt:], bits)
		return nil
	case cmdSetHashFields:
		d.writes++
		d.hash[get32(b, rxnfcFlowAt)] = binary.NativeEndian.Uint64(b[rxnfcDataAt:])
		return nil
	case cmdGetSetInfo, cmdGetStrings, cmdGetStats:
		return d.strings(cmd, b)
	case cmdGetFeatures, cmdSetFeatures:
		return d.feature(cmd, b)
	}
	return unix.EOPNOTSUPP
}

// getRSS follows ethtool_get_rxfh (net/ethtool/ioctl.c).
func (d *device) getRSS(b []byte) error {
	if d.onlyIndir {
		return unix.EOPNOTSUPP
	}
	entries, keyBytes := get32(b, rssTableSizeAt), get32(b, rssKeySizeAt)
	if (entries != 0 && int(entries) != len(d.table)) || (keyBytes != 0 && int(keyBytes) != len(d.key)) {
		return unix.EINVAL
	}
	put32(b, rssTableSizeAt, uint32(len(d.table)))
	put32(b, rssKeySizeAt, uint32(len(d.key)))
	b[rssFunctionAt], b[rssTransformAt] = d.function, d.transform
	d.putTable(b, rssHeaderBytes, entries != 0)
	if keyBytes != 0 {
		copy(b[rssHeaderBytes+4*len(d.table):], d.key)
	}
	if d.grow != nil {
		d.grow(d)
	}
	return nil
}

func (d *device) putTable(b []byte, at int, wanted bool) {
	for i, queue := range d.table {
		if wanted {
			put32(b, at+4*i, queue)
		}
	}
}

func (d *device) setRSS(b []byte) error {
	if d.onlyIndir {
		return unix.EOPNOTSUPP
	}
	if get32(b, rssKeySizeAt) != 0 || b[rssFunctionAt] != 0 {
		return errors.New("key or function touched")
	}
	d.transform = b[rssTransformAt]
	return d.takeTable(b, int(get32(b, rssTableSizeAt)), rssHeaderBytes)
}

func (d *device) takeTable(b []byte, entries, at int) error {
	if entries != 0 && entries != len(d.table) {
		return unix.EINVAL
	}
	d.writes++
	for i := range d.table {
		d.table[i] = uint32(i) % uint32(d.rings)
		if entries != 0 {
			d.table[i] = get32(b, at+4*i)
		}
		if uint64(d.table[i]) >= d.rings {
			return unix.EINVAL
		}
	}
	return nil
}

func (d *device) names(set uint32) []string {
	var names []string
	switch set {
	case setStats:
		for _, c := range d.counters {
			names = append(names, c.Name)
		}
	case setFeatures:
		for _, f := range d.features {
			names = append(names, f.name)
		}
	case setHashFunctions:
		names = []string{"toeplitz", "xor", "crc32"}
	}
	return names
}

func (d *device) strings(cmd uint32, b []byte) error {
	if d.grow != nil {
		defer d.grow(d)
	}
	switch cmd {
	case cmdGetSetInfo:
		for set := range uint32(8) {
			if binary.NativeEndian.Uint64(b[8:]) == 1<<set {
				put32(b, 16, uint32(len(d.names(set))))
			}
		}
	case cmdGetStrings:
		names := d.names(get32(b, 4))
		if stringsHeaderBytes+stringBytes*len(names) > len(b) {
			return unix.EFAULT
		}
		put32(b, 8, uint32(len(names)))
		for i, name := range names {
			copy(b[stringsHeaderBytes+i*stringBytes:], name)
		}
	case cmdGetStats:
		if statsHeaderBytes+8*len(d.counters) > len(b) {
			return unix.EFAULT
		}
		put32(b, 4, uint32(len(d.counters)))
		for i, c := range d.counters {
			binary.NativeEndian.PutUint64(b[statsHeaderBytes+8*i:], c.Value)
		}
	}
	return nil
}

func (d *device) feature(cmd uint32, b []byte) error {
	for i := range d.features {
		f := &d.features[i]
		bit := uint32(1) << (i % 32)
		if cmd == cmdGetFeatures {
			at := featuresHeaderBytes + i/32*featureBlockBytes
			for word, on := range []bool{f.available, f.wanted, f.active, f.never} {
				if on {
					put32(b, at+4*word, get32(b, at+4*word)|bit)
				}
			}
			continue
		}
		at := featuresHeaderBytes + i/32*setFeatureBytes
		if get32(b, at)&bit == 0 || !f.available {
			continue
		}
		d.writes++
		f.wanted = get32(b, at+4)&bit != 0
		f.active = f.wanted
		if f.granted != nil {
			f.active = f.granted(f.wanted)
		}
	}
	return nil
}

func sequence(entries, queues int) []uint32 {
	table := make([]uint32, entries)
	for i := range table {
		table[i] = uint32(i*7) % uint32(queues)
	}
	return table
}

func TestRSS(t *testing.T) {
	key := []byte(strings.Repeat("k", 40))
	for _, entries := range []int{1, 128, 256, 512, 2048, maxTable} {
		d := &device{table: sequence(entries, 63), key: key, function: 1, rings: 63}
		want := host.RSS{Table: sequence(entries, 63), Key: key, Function: "toeplitz", RxRings: 63}
		got, err := newNIC(d.call).rss("eth0")
		if err != nil {
			t.Fatalf("%d entries: %v", entries, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%d entries (-want +got)\n%s", entries, diff)
		}
	}
}

func TestRSSLimits(t *testing.T) {
	resized := 0
	tests := []struct {
		name string
		d    device
		want error // nil: a table comes
	}{
		{name: "too large", d: device{table: make([]uint32, maxTable+1), rings: 1}, want: host.ErrInconclusive},
		{name: "no table and no key", d: device{function: 1, rings: 1}, want: host.ErrUnsupported},
		{name: "table alone on an old driver", d: device{table: sequence(128, 4), rings: 4, onlyIndir: true}},
		{name: "resized once", d: device{table: sequence(128, 4), rings: 4, grow: func(d *device) {
			if resized++; resized == 1 {
				d.table = sequence(512, 4)
			}
		}}},
		{name: "resized for ever", d: device{table: sequence(128, 4), rings: 4, grow: func(d *device) { d.table = append(d.table, 0) }}, want: host.ErrInconclusive},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := newNIC(tt.d.call).rss("eth0")
			if tt.want != nil {
				if !errors.Is(err, tt.want) || !cmp.Equal(got, host.RSS{}) {
					t.Errorf("%v with %d entries, want %v", err, len(got.Table), tt.want)
				}
				return
			}
			if err != nil || !cmp.Equal(got.Table, tt.d.table) {
				t.Errorf("%v with %d entries, want %d", err, len(got.Table), len(tt.d.table))
			}
		})
	}
}

func TestWriteRSS(t *testing.T) {
	for _, onlyIndir := range []bool{false, true} {
		d := &device{table: sequence(512, 8), key: []byte("key"), rings: 8, transform: 1, onlyIndir: onlyIndir}
		n := newNIC(d.call)
		if err := n.writeRSS("eth0", sequence(512, 8)); err != nil || d.writes != 0 {
			t.Errorf("the present table: %v, %d writes", err, d.writes)
		}
		if err := n.writeRSS("eth0", sequence(512, 3)); err != nil || !cmp.Equal(d.table, sequence(512, 3)) || d.transform != 1 {
			t.Errorf("a new table: %v, transform %d", err, d.transform)
		}
		if err := n.writeRSS("eth0", sequence(256, 3)); err == nil || !strings.Contains(err.Error(), "512") {
			t.Errorf("a table of another size: %v", err)
		}
		if err := n.writeRSS("eth0", sequence(512, 9)); !errors.Is(err, unix.EINVAL) {
			t.Errorf("a queue that is not there: %v", err)
		}
		if err := n.writeRSS("eth0", nil); err != nil || d.table[9] != 1 {
			t.Errorf("the default: %v, %v", err, d.table[:10])
		}
	}
}

func TestHashFields(t *testing.T) {
	const ip6FlowLabel = 1 << 9
	d := &device{hash: map[uint32]uint64{1: 0xf0, 2: 0x30, 5: 0, 6: 0x30 | ip6FlowLabel}}
	n := newNIC(d.call)
	for flow, want := range map[string]string{"tcp4": "sdfn", "udp4": "sd", "tcp6": "", "udp6": "sd"} {
		if got, err := n.hashFields("eth0", flow); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", flow, got, err, want)
		}
	}
	for _, flow := range []string{"sctp4", "ether"} {
		if _, err := n.hashFields("eth0", flow); !errors.Is(err, host.ErrUnsupported) {
			t.Errorf("%s: %v", flow, err)
		}
	}
	if err := n.writeHashFields("eth0", "udp4", "ds"); err != nil || d.writes != 0 {
		t.Errorf("the present fields in another order: %v, %d writes", err, d.writes)
	}
	if err := n.writeHashFields("eth0", "udp6", "sdfn"); err != nil || d.hash[6] != 0xf0|ip6FlowLabel {
		t.Errorf("udp6: %v, bits %#x", err, d.hash[6])
	}
	if err := n.writeHashFields("eth0", "udp4", "sdx"); err == nil || d.writes != 1 {
		t.Errorf("a letter that is none: %v, %d writes", err, d.writes)
	}
}

// Text and bits are one to one.
func FuzzHashFields(f *testing.F) {
	f.Add("sdfn")
	f.Add("mvtr")
	f.Add("x")
	f.Fuzz(func(t *testing.T, text string) {
		bits, err := hashBits(text)
		if err != nil {
			if bits != 0 {
				t.Errorf("%q: error %v with bits %#x", text, err, bits)
			}
			return
		}
		again, err := hashBits(hashText(bits))
		if err != nil || again != bits {
			t.Errorf("%q: %#x, again %#x, %v", text, bits, again, err)
		}
	})
}

func TestStatsKeepOrder(t *testing.T) {
	want := host.Stats{{Name: "rx_packets", Value: 1 << 40}, {Name: "a", Value: 2}, {Name: strings.Repeat("n", 32), Value: 3}, {Name: "a", Value: 4}}
	d := &device{counters: append(host.Stats{{Name: "", Value: 9}}, want...)}
	got, err := newNIC(d.call).stats("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// Counters that come or go between the calls are asked for again.
func TestStatsResized(t *testing.T) {
	for stopAfter := range 8 {
		d := &device{counters: host.Stats{{Name: "a", Value: 1}, {Name: "b", Value: 2}}}
		calls := 0
		d.grow = func(d *device) {
			if calls++; calls > stopAfter {
				return
			}
			d.counters = append(d.counters, host.Stat{Name: strings.Repeat("c", calls), Value: uint64(calls)})
			if calls%3 == 0 {
				d.counters = d.counters[2:]
			}
		}
		got, err := newNIC(d.call).stats("eth0")
		if err == nil && !cmp.Equal(got, host.Stats(d.counters)) {
			t.Errorf("after %d changes: %v, device has %v", stopAfter, got, d.counters)
		}
		if err != nil && !errors.Is(err, host.ErrInconclusive) {
			t.Errorf("after %d changes: %v", stopAfter, err)
		}
	}
	if _, err := newNIC((&device{}).call).stats("eth0"); !errors.Is(err, host.ErrUnsupported) {
		t.Errorf("no counters: %v", err)
	}
}

func featureDevice() *device {
	d := &device{}
	for range 40 { // the features of interest are in the second block
		d.features = append(d.features, feature{})
	}
	d.features = append(d.features,
		feature{name: "rx-gro", available: true, wanted: true, active: true},
		feature{name: "rx-gro-hw", available: true},
		feature{name: "rx-lro", available: true, wanted: true, granted: func(bool) bool { return false }},
		feature{name: "highdma", active: true},
		feature{name: "netns-local", available: true, never: true},
	)
	return d
}

func TestFeatures(t *testing.T) {
	got, err := newNIC(featureDevice().call).features("eth0")
	if err != nil {
		t.Fatal(err)
	}
	want := host.Features{
		"rx-gro":      {On: true, Requested: true},
		"rx-gro-hw":   {},
		"rx-lro":      {Requested: true},
		"highdma":     {On: true, Fixed: true},
		"netns-local": {Fixed: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestWriteFeatures(t *testing.T) {
	tests := []struct {
		name   string
		on     map[string]bool
		writes int
		kind   error
		text   string // "" = success
	}{
		{name: "as it is", on: map[string]bool{"rx-gro": true, "highdma": true}},
		{name: "granted", on: map[string]bool{"rx-gro": false, "rx-gro-hw": true}, writes: 2},
		{name: "not granted", on: map[string]bool{"rx-gro": false, "rx-lro": true}, writes: 2, text: "not granted by the kernel or driver: rx-lro on"},
		{name: "fixed", on: map[string]bool{"rx-gro": false, "highdma": false}, kind: host.ErrUnsupported, text: "fixed by the device: highdma off"},
		{name: "unknown", on: map[string]bool{"rx-gor": true}, kind: host.ErrUnsupported, text: `"rx-gor"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := featureDevice()
			err := newNIC(d.call).writeFeatures("eth0", tt.on)
			if d.writes != tt.writes {
				t.Errorf("%d writes, want %d", d.writes, tt.writes)
			}
			if (err != nil) != (tt.text != "") || (err != nil && !strings.Contains(err.Error(), tt.text)) {
				t.Errorf("%v, want %q", err, tt.text)
			}
			if tt.kind != nil && !errors.Is(err, tt.kind) {
				t.Errorf("%v is not %v", err, tt.kind)
			}
		})
	}
}

// A device that only wished for LRO and stops wishing is written to although
// the state stays the same.
func TestWriteFeatureWish(t *testing.T) {
	d := featureDevice()
	if err := newNIC(d.call).writeFeatures("eth0", map[string]bool{"rx-lro": false}); err != nil || d.writes != 1 {
		t.Errorf("%v, %d writes", err, d.writes)
	}
}

func TestNoSuchDevice(t *testing.T) {
	if _, err := newNIC((&device{}).call).features("eth1"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// FuzzAnswers: no decoder panics whatever the kernel's sizes say, and an error
// comes with a zero value.
func FuzzAnswers(f *testing.F) {
	names := []string{"a", "", "c"}
	f.Add(encodeRSS(sequence(4, 2), 0))
	f.Add(encodeIndirection(sequence(4, 2)))
	f.Add(append(u32(cmdGetStats), append(u32(3), make([]byte, 24)...)...))
	f.Add(append(u32(cmdGetFeatures), append(u32(1), make([]byte, 16)...)...))
	f.Add(append(request(cmdGetStrings, 8), append(u32(1), make([]byte, 32)...)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		state, err := decodeRSS(b)
		zeroOnErrorOnly(t, "rss", err, cmp.Equal(state, rssState{}, cmp.AllowUnexported(rssState{})))
		state, err = decodeIndirection(b)
		zeroOnErrorOnly(t, "indirection", err, cmp.Equal(state, rssState{}, cmp.AllowUnexported(rssState{})))
		stats, err := decodeStats(names, b)
		zeroOnErrorOnly(t, "stats", err, stats == nil)
		features, err := decodeFeatures(names, b)
		zeroOnErrorOnly(t, "features", err, features == nil)
		list, err := decodeNames(b, 1)
		zeroOnErrorOnly(t, "names", err, list == nil)
	})
}

func zeroOnErrorOnly(t *testing.T, what string, err error, zero bool) {
	t.Helper()
	if err != nil && !zero {
		t.Errorf("%s: error %v with a value", what, err)
	}
}
