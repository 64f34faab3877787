package knob

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/napitune/napitune/detect/host"
)

// recorder is a writer that notes every call.
func recorder() (host.Writer, *[]string) {
	var log []string
	note := func(format string, args ...any) error {
		log = append(log, fmt.Sprintf(format, args...))
		return nil
	}
	asJSON := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return string(b)
	}
	return host.Writer{
		WriteFile:   func(name string, data []byte) error { return note("%s = %s", name, data) },
		SetChannels: func(dev string, c host.Channels) error { return note("channels %s %+v", dev, c) },
		SetRings:    func(dev string, r host.Rings) error { return note("rings %s %+v", dev, r) },
		SetCoalesce: func(dev string, c host.Coalesce) error { return note("coalesce %s %s", dev, asJSON(c)) },
		SetFeatures: func(dev string, on map[string]bool) error {
			for _, k := range slices.Sorted(maps.Keys(on)) {
				note("feature %s %s %v", dev, k, on[k])
			}
			return nil
		},
		SetRSS:        func(dev string, table []uint32) error { return note("rss %s %v", dev, table) },
		SetHashFields: func(dev, flow, fields string) error { return note("hash %s %s %s", dev, flow, fields) },
		SetNAPI:       func(n host.NAPI) error { return note("napi %d %d %d", n.ID, n.DeferHardIRQs, n.GROFlushTimeout) },
	}, &log
}

func TestWriteAndShell(t *testing.T) {
	t.Parallel()
	tests := []struct{ ref, value, call, shell string }{
		{"net.core.netdev_budget", "600", "proc/sys/net/core/netdev_budget = 600", "sysctl -w net.core.netdev_budget=600"},
		{"net.core.flow_limit_cpu_bitmap", "0-3", "proc/sys/net/core/flow_limit_cpu_bitmap = f", "sysctl -w net.core.flow_limit_cpu_bitmap=f"},
		{"eth0/rx-0/irq.affinity", "32", "proc/irq/30/smp_affinity = 1,00000000", "echo 32 > /proc/irq/30/smp_affinity_list"},
		{"eth0/rx-0/rps.cpus", "0-2", "sys/class/net/eth0/queues/rx-0/rps_cpus = 7", "echo 7 > /sys/class/net/eth0/queues/rx-0/rps_cpus"},
		{"eth0/rx-0/rps.cpus", "", "sys/class/net/eth0/queues/rx-0/rps_cpus = 0", "echo 0 > /sys/class/net/eth0/queues/rx-0/rps_cpus"},
		{"eth0/rx-1/rps.flow_cnt", "2048", "sys/class/net/eth0/queues/rx-1/rps_flow_cnt = 2048", "echo 2048 > /sys/class/net/eth0/queues/rx-1/rps_flow_cnt"},
		{"eth0/tx-1/xps.cpus", "1", "sys/class/net/eth0/queues/tx-1/xps_cpus = 2", "echo 2 > /sys/class/net/eth0/queues/tx-1/xps_cpus"},
		{"eth0/tx-1/xps.rxqs", "1,4", "sys/class/net/eth0/queues/tx-1/xps_rxqs = 12", "echo 12 > /sys/class/net/eth0/queues/tx-1/xps_rxqs"},
		{"eth0/tx-1/xps.rxqs", "", "sys/class/net/eth0/queues/tx-1/xps_rxqs = 0", "echo 0 > /sys/class/net/eth0/queues/tx-1/xps_rxqs"},
		{"eth0/channels.combined", "4", "channels eth0 {MaxRx:0 MaxTx:0 MaxOther:0 MaxCombined:8 Rx:0 Tx:0 Other:0 Combined:4}", "ethtool -L eth0 combined 4"},
		{"eth0/ring.rx", "4096", "rings eth0 {MaxRx:4096 MaxTx:0 Rx:4096 Tx:0}", "ethtool -G eth0 rx 4096"},
		{"eth0/coalesce.rx-usecs", "20", `coalesce eth0 {"adaptive_rx":true,"values":{"rx-usecs":20}}`, "ethtool -C eth0 rx-usecs 20"},
		{"eth0/coalesce.adaptive-rx", "off", `coalesce eth0 {"adaptive_rx":false,"values":{"rx-usecs":50}}`, "ethtool -C eth0 adaptive-rx off"},
		{"eth0/feature.rx-gro", "off", "feature eth0 rx-gro false", "ethtool -K eth0 rx-gro off"},
		{"eth0/rss.table", "0*3 1", "rss eth0 [0 0 0 1]", "ethtool -X eth0 weight 3 1"},
		{"eth0/rss.table", "0-1*2", "rss eth0 [0 1 0 1]", "ethtool -X eth0 equal 2"},
		{"eth0/rss.table", "1*2 3*2", "rss eth0 [1 1 3 3]", "ethtool -X eth0 weight 0 2 0 2"},
		{"eth0/rss.table", "1 0*3", "rss eth0 [1 0 0 0]", ""},
		{"eth0/rss.table", "4294967295", "rss eth0 [4294967295]", ""},
		{"eth0/rss.hash.udp4", "nfsd", "hash eth0 udp4 sdfn", "ethtool -N eth0 rx-flow-hash udp4 sdfn"},
		{"eth0/threaded", "on", "sys/class/net/eth0/threaded = 1", "echo 1 > /sys/class/net/eth0/threaded"},
		{"eth0/gro_flush_timeout", "40000", "sys/class/net/eth0/gro_flush_timeout = 40000", "echo 40000 > /sys/class/net/eth0/gro_flush_timeout"},
		{"a;b'c/feature.rx-gro", "on", "feature a;b'c rx-gro true", `ethtool -K 'a;b'\''c' rx-gro on`},
		{"$(x)/threaded", "off", "sys/class/net/$(x)/threaded = 0", `echo 0 > '/sys/class/net/$(x)/threaded'`},
	}
	v := view()
	for _, tt := range tests {
		ref, err := ParseRef(tt.ref)
		if err != nil {
			t.Fatal(err)
		}
		k, _ := Lookup(ref.Kind)
		w, log := recorder()
		if err := k.Write(v, w, ref, tt.value); err != nil {
			t.Errorf("%s = %q: %v", tt.ref, tt.value, err)
		}
		if diff := cmp.Diff([]string{tt.call}, *log); diff != "" {
			t.Errorf("%s = %q (-want +got):\n%s", tt.ref, tt.value, diff)
		}
		if got := k.Shell(v, ref, tt.value); got != tt.shell {
			t.Errorf("%s = %q: shell %q, want %q", tt.ref, tt.value, got, tt.shell)
		}
	}
	// The host's own answers must be as before: nothing was written through a shared map.
	if got, _ := v.Host.Ethtool.Coalesce("eth0"); *got.AdaptiveRx != true || got.Values["rx-usecs"] != 50 {
		t.Errorf("writing changed the host's answer: %+v", got)
	}
}

func TestWriteErrorsNameTheWrite(t *testing.T) {
	t.Parallel()
	v := view()
	cause := errors.New("device or resource busy")
	w := host.Writer{SetRings: func(string, host.Rings) error { return cause }}
	k, _ := Lookup("ring.rx")
	err := k.Write(v, w, Device("eth0", "ring.rx"), "4096")
	if !errors.Is(err, cause) || err.Error() != `set eth0/ring.rx to "4096": device or resource busy` {
		t.Errorf("error %v", err)
	}
	if err := k.Write(v, w, Device("eth0", "ring.rx"), "many"); err == nil || errors.Is(err, cause) {
		t.Errorf("a malformed value was written: %v", err)
	}
	for _, value := range []string{"-1", "4294967296"} {
		if err := k.Write(v, w, Device("eth0", "ring.rx"), value); err == nil || errors.Is(err, cause) {
			t.Errorf("ring of %s was written: %v", value, err)
		}
	}
}

// What an errno means depends on the setting; people are told what to do.
func TestWriteErrorsSayWhatToDo(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		ref, value string
		errno      syscall.Errno
		want       []string
	}{
		{"eth0/rx-0/irq.affinity", "3", syscall.ENOSPC, []string{"CPU 3 has no free interrupt vector", "choose another CPU"}},
		{"eth0/channels.combined", "4", syscall.EBUSY, []string{"RDMA", "AF_XDP", "stop the holder", "at boot"}},
		{"eth0/channels.combined", "4", syscall.EINVAL, nil},
		{"eth0/rx-0/irq.affinity", "3", syscall.EPERM, nil},
	} {
		ref, err := ParseRef(tt.ref)
		if err != nil {
			t.Fatal(err)
		}
		w := host.Writer{
			WriteFile:   func(string, []byte) error { return tt.errno },
			SetChannels: func(string, host.Channels) error { return tt.errno },
		}
		k, _ := Lookup(ref.Kind)
		err = k.Write(view(), w, ref, tt.value)
		if !errors.Is(err, tt.errno) || tt.want == nil && !strings.HasSuffix(err.Error(), ": "+tt.errno.Error()) {
			t.Errorf("%s, %v: %v", tt.ref, tt.errno, err)
		}
		for _, words := range tt.want {
			if !strings.Contains(err.Error(), words) {
				t.Errorf("%s, %v: %q does not say %q", tt.ref, tt.errno, err, words)
			}
		}
	}
}

// A device-wide write destroys the values of single NAPIs; they must be put
// back after it.
func TestDeviceWideWriteKeepsNAPIs(t *testing.T) {
	t.Parallel()
	v := view()
	v.Host.Netdev.NAPIs = func() ([]host.NAPI, error) {
		return []host.NAPI{
			{IfIndex: 2, ID: 11, GROFlushTimeout: 20000},
			{IfIndex: 2, ID: 12, GROFlushTimeout: 50000, DeferHardIRQs: 3},
			{IfIndex: 3, ID: 13, GROFlushTimeout: 70000},
		}, nil
	}
	w, log := recorder()
	k, _ := Lookup("gro_flush_timeout")
	ref := Device("eth0", "gro_flush_timeout")
	if err := k.Write(v, w, ref, "100000"); err != nil {
		t.Fatal(err)
	}
	want := []string{"sys/class/net/eth0/gro_flush_timeout = 100000", "napi 12 3 50000"}
	if diff := cmp.Diff(want, *log); diff != "" {
		t.Errorf("writes (-want +got):\n%s", diff)
	}
	v.Host.Netdev.NAPIs = func() ([]host.NAPI, error) { return nil, errors.New("netlink broke") }
	if err := k.Write(v, w, ref, "1"); err == nil || !strings.Contains(err.Error(), "list NAPIs") {
		t.Errorf("written although the NAPIs are not known: %v", err)
	}
}

func TestDisruptionFor(t *testing.T) {
	t.Parallel()
	v := view()
	for _, tt := range []struct {
		kind, dev string
		want      Disruption
	}{
		{"channels.combined", "eth0", DisruptsLink},
		{"channels.combined", "eth1", DisruptsPackets},
		{"channels.combined", "unheard", DisruptsLink},
		{"ring.rx", "eth1", DisruptsPackets},
		{"feature.rx-lro", "eth1", DisruptsPackets},
		{"feature.rx-gro", "eth0", DisruptsNothing},
		{"coalesce.rx-usecs", "eth1", DisruptsNothing},
		{"rss.table", "eth0", DisruptsPackets},
	} {
		k, _ := Lookup(tt.kind)
		got := k.DisruptionFor(v, Device(tt.dev, tt.kind))
		if got != tt.want || got > k.Disruption {
			t.Errorf("%s of %s disrupts %s, want %s and at most %s", tt.kind, tt.dev, got, tt.want, k.Disruption)
		}
	}
}
