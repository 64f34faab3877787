package archive

import (
	"errors"
	"io/fs"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect/host"
)

func yes() *bool { v := true; return &v }
func no() *bool  { v := false; return &v }

// parserCase is one output and what it means.
type parserCase[T any] struct {
	name, text string
	want       T
	err        error
}

func runParser[T any](t *testing.T, parse func(string) (T, error), cases []parserCase[T]) {
	t.Helper()
	common := []parserCase[T]{
		{name: "empty", text: "", err: host.ErrNotCaptured},
		{name: "blank", text: " \n\n", err: host.ErrNotCaptured},
		{name: "unsupported", text: "Cannot get device settings: Operation not supported\n", err: host.ErrUnsupported},
		{name: "unsupported on two lines", text: "Cannot get device channel parameters\n: Operation not supported\n", err: host.ErrUnsupported},
		{name: "netlink error", text: "netlink error: Operation not supported\n", err: host.ErrUnsupported},
		{name: "no device", text: "Cannot get device settings: No such device\n", err: fs.ErrNotExist},
		{name: "not allowed", text: "netlink error: Operation not permitted\n", err: fs.ErrPermission},
		{name: "no command", text: "timeout: failed to run command: No such file or directory\n", err: host.ErrNotCaptured},
		{name: "noise", text: "lorem ipsum\n", err: host.ErrInconclusive},
	}
	for _, c := range append(common, cases...) {
		t.Run(c.name, func(t *testing.T) {
			got, err := parse(c.text)
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseDriverInfo(t *testing.T) {
	runParser(t, parseDriverInfo, []parserCase[host.DriverInfo]{
		{"usual", "driver: i40e\nversion: 2.3\nfirmware-version: 6.01 0x80\nexpansion-rom-version: \nbus-info: 0000:1c:00.0\nsupports-test: yes\n",
			host.DriverInfo{Driver: "i40e", Version: "2.3", Firmware: "6.01 0x80", Bus: "0000:1c:00.0"}, nil},
		{"no colons", "driver i40e\nversion 4.18\nfirmware-version 3.25 0x8\nexpansion-rom-version:\nbus-info: 0000:1c:00.0\n",
			host.DriverInfo{Driver: "i40e", Version: "4.18", Firmware: "3.25 0x8", Bus: "0000:1c:00.0"}, nil},
		{"blanks in the name", "driver: 802.1Q VLAN Support\nfirmware-version: N/A\n", host.DriverInfo{Driver: "802.1Q VLAN Support"}, nil},
		{"comment", "# ethtool -i eth0\ndriver: e1000e\n", host.DriverInfo{Driver: "e1000e"}, nil},
	})
}

func TestParseChannels(t *testing.T) {
	text := func(values ...string) string {
		s := "Channel parameters for eth0:\nPre-set maximums:\n"
		for i, v := range values {
			if i == 4 {
				s += "Current hardware settings:\n"
			}
			s += [...]string{"RX", "TX", "Other", "Combined"}[i%4] + ":\t\t" + v + "\n"
		}
		return s
	}
	runParser(t, parseChannels, []parserCase[host.Channels]{
		{"usual", text("4", "5", "1", "16", "2", "3", "1", "8"), host.Channels{MaxRx: 4, MaxTx: 5, MaxOther: 1, MaxCombined: 16, Rx: 2, Tx: 3, Other: 1, Combined: 8}, nil},
		{"not available", text("n/a", "n/a", "n/a", "16", "n/a", "n/a", "n/a", "2"), host.Channels{MaxCombined: 16, Combined: 2}, nil},
		{"all zero", text("0", "0", "0", "0", "0", "0", "0", "0"), host.Channels{}, host.ErrInconclusive},
		{"second half missing", text("0", "0", "0", "1"), host.Channels{}, host.ErrInconclusive},
		{"negative", text("0", "0", "0", "-1", "0", "0", "0", "1"), host.Channels{}, host.ErrInconclusive},
		{"too large", text("0", "0", "0", "4294967296", "0", "0", "0", "1"), host.Channels{}, host.ErrInconclusive},
	})
}

func TestParseRings(t *testing.T) {
	runParser(t, parseRings, []parserCase[host.Rings]{
		{"usual", "Ring parameters for eth0:\nPre-set maximums:\nRX:\t\t4096\nRX Mini:\tn/a\nRX Jumbo:\t0\nTX:\t\t2048\nTX push buff len:\tn/a\nCurrent hardware settings:\nRX:\t\t512\nRX Mini:\t0\nTX:\t\t256\nRX Buf Len:\t\t2048\nCQE Size:\tn/a\n",
			host.Rings{MaxRx: 4096, MaxTx: 2048, Rx: 512, Tx: 256}, nil},
		{"none to set", "Pre-set maximums:\nRX: 0\nTX: 0\nCurrent hardware settings:\nRX: 0\nTX: 0\n", host.Rings{}, host.ErrUnsupported},
		{"error before headline", "Cannot get device ring settings: Operation not supported\nRing parameters for br0:\n", host.Rings{}, host.ErrUnsupported},
	})
}

func TestParseCoalesce(t *testing.T) {
	runParser(t, parseCoalesce, []parserCase[host.Coalesce]{
		{"usual", "Coalesce parameters for eth0:\nAdaptive RX: on  TX: off\nstats-block-usecs: 0\n\nrx-usecs: 16\nrx-frames: n/a\nrx-frame-low: 3\n\nCQE mode RX: n/a  TX: n/a\n",
			host.Coalesce{AdaptiveRx: yes(), AdaptiveTx: no(), Values: map[string]int{"stats-block-usecs": 0, "rx-usecs": 16, "rx-frames-low": 3}}, nil},
		{"no adaptive mode", "Adaptive RX: n/a  TX: n/a\nrx-usecs:\t50\n", host.Coalesce{Values: map[string]int{"rx-usecs": 50}}, nil},
		{"error before headline", "Cannot get device coalesce settings: Operation not supported\nCoalesce parameters for br0:\n", host.Coalesce{}, host.ErrUnsupported},
	})
}

func TestParseFeatures(t *testing.T) {
	runParser(t, parseFeatures, []parserCase[host.Features]{
		{"usual", "Features for eth0:\nrx-checksumming: on [fixed]\ntx-checksumming: on\n\ttx-checksum-ipv4: off [fixed]\nscatter-gather: on\n\ttx-scatter-gather: on\ntcp-segmentation-offload: off\n\ttx-tcp-segmentation: off\ngeneric-receive-offload: on\nlarge-receive-offload: off [requested on]\nreceive-hashing: on\nntuple-filters: on [requested off]\nrx-gro-hw: off\nCannot get device rx csum settings: Operation not supported\n",
			host.Features{
				"rx-checksum":       {On: true, Requested: true, Fixed: true},
				"tx-checksum-ipv4":  {Fixed: true},
				"tx-scatter-gather": {On: true, Requested: true}, "tx-tcp-segmentation": {},
				"rx-gro": {On: true, Requested: true}, "rx-lro": {Requested: true},
				"rx-hashing": {On: true, Requested: true}, "rx-ntuple-filter": {On: true}, "rx-gro-hw": {},
			}, nil},
		{"old version without details", "Offload parameters for eth0:\nscatter-gather: on\ntcp-segmentation-offload: off\n",
			host.Features{"tx-scatter-gather": {On: true, Requested: true}, "tx-tcp-segmentation": {}}, nil},
	})
}

func TestParseRSS(t *testing.T) {
	table := "RX flow hash indirection table for eth0 with 4 RX ring(s):\n    0:      0     1     2     3\n    4:      0     1     2     3\n"
	runParser(t, parseRSS, []parserCase[host.RSS]{
		{"usual", table + "RSS hash key:\n6d:5a:00\nRSS hash function:\n    toeplitz: on\n    xor: off\n    crc32: off\n",
			host.RSS{Table: []uint32{0, 1, 2, 3, 0, 1, 2, 3}, Key: []byte{0x6d, 0x5a, 0}, Function: "toeplitz", RxRings: 4}, nil},
		{"no key", table + "RSS hash key:\nOperation not supported\n", host.RSS{Table: []uint32{0, 1, 2, 3, 0, 1, 2, 3}, RxRings: 4}, nil},
		{"gap in the table", "RX flow hash indirection table for eth0 with 4 RX ring(s):\n 0: 0 1\n 8: 1 2\n", host.RSS{}, host.ErrInconclusive},
		{"no number in the table", "RX flow hash indirection table for eth0 with 4 RX ring(s):\n 0: 0 x\n", host.RSS{}, host.ErrInconclusive},
		{"no table", "RX flow hash indirection table for eth0 with 1 RX ring(s):\nOperation not supported\n", host.RSS{}, host.ErrUnsupported},
	})
}

func TestParseHashFields(t *testing.T) {
	head := "UDP over IPV4 flows use these fields for computing Hash flow key:\n"
	runParser(t, parseHashFields, []parserCase[string]{
		{"two", head + "IP SA\nIP DA\n\n", "sd", nil},
		{"four", head + "IP SA\nIP DA\nL4 bytes 0 & 1 [TCP/UDP src port]\nL4 bytes 2 & 3 [TCP/UDP dst port]\n", "sdfn", nil},
		{"rules instead", "4 RX rings available\nTotal 0 rules\n", "", host.ErrInconclusive},
	})
}

func TestParseStats(t *testing.T) {
	runParser(t, parseStats, []parserCase[host.Stats]{
		{"usual", "NIC statistics:\n     rx_packets: 12\n     rx-0.bytes: 18446744073709551615\n     [1]: rx_ucast_packets: 3\n     broken: 0.1.1\n     whatever\n     : 4\n",
			host.Stats{{Name: "rx_packets", Value: 12}, {Name: "rx-0.bytes", Value: 1<<64 - 1}, {Name: "[1]: rx_ucast_packets", Value: 3}}, nil},
		{"none", "no stats available\n", nil, host.ErrUnsupported},
		{"queue headlines only", "NIC statistics:\n  Rx Queue#: 1\n", nil, host.ErrInconclusive},
		{"vmxnet3", "NIC statistics:\n     Tx Queue#: 1\n       drv dropped tx total: 1\n          giant hdr: 2\n       giant hdr: 3\n     Rx Queue#: 0\n       pkts rx OOB: 4\n     tx timeout count: 5\n",
			host.Stats{{Name: "txq1: drv dropped tx total", Value: 1}, {Name: "txq1: drv dropped tx total: giant hdr", Value: 2}, {Name: "txq1: giant hdr", Value: 3},
				{Name: "rxq0: pkts rx OOB", Value: 4}, {Name: "tx timeout count", Value: 5}}, nil},
	})
}

const linkText = `1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue state UNKNOWN mode DEFAULT group default qlen 1000
    link/loopback 00:00:00:00:00:00 brd 00:00:00:00:00:00 promiscuity 0 addrgenmode eui64 numtxqueues 1 numrxqueues 1
2: eth0: <BROADCAST,MULTICAST,SLAVE,UP,LOWER_UP> mtu 9000 xdp/id:7 qdisc mq master bond0 state UP qlen 1000
    link/ether 52:54:00:e2:28:a3 brd ff:ff:ff:ff:ff:ff
    bond_slave state ACTIVE mii_status UP addrgenmode eui64 numtxqueues 64 numrxqueues 32 gso_max_size 65536
3: eth0.5@eth0: <NO-CARRIER,BROADCAST,UP> mtu 1500 qdisc noqueue state DOWN
    link/ether 52:54:00:e2:28:a3 brd ff:ff:ff:ff:ff:ff promiscuity 0
    vlan protocol 802.1Q id 5 <REORDER_HDR> addrgenmode eui64 numtxqueues 1 numrxqueues 1
4: veth1@if9: <BROADCAST> mtu 1500 qdisc noop state DOWN
    link/ether 4e:68:29:1e:ed:52 brd ff:ff:ff:ff:ff:ff link-netnsid 0
    veth addrgenmode eui64
5: bond0: <BROADCAST,MULTICAST,MASTER,UP,LOWER_UP> mtu 9000 qdisc noqueue state UP
    link/ether 52:54:00:e2:28:a3 brd ff:ff:ff:ff:ff:ff promiscuity 0
    bond mode 802.3ad miimon 100 addrgenmode eui64 numtxqueues 16 numrxqueues 16
`

func TestParseLinks(t *testing.T) {
	runParser(t, parseLinks, []parserCase[[]host.Link]{
		{"usual", linkText, []host.Link{
			{Name: "lo", Index: 1, Up: true, Running: true, Loopback: true, MTU: 65536, RxQueues: 1, TxQueues: 1, Qdisc: "noqueue"},
			{Name: "eth0", Index: 2, Master: 5, Up: true, Running: true, MTU: 9000, RxQueues: 32, TxQueues: 64, XDP: true, Qdisc: "mq"},
			{Name: "eth0.5", Index: 3, Kind: "vlan", Parent: 2, Up: true, MTU: 1500, RxQueues: 1, TxQueues: 1, Qdisc: "noqueue"},
			{Name: "veth1", Index: 4, Kind: "veth", Parent: 9, Foreign: true, MTU: 1500, Qdisc: "noop"},
			{Name: "bond0", Index: 5, Kind: "bond", Up: true, Running: true, MTU: 9000, RxQueues: 16, TxQueues: 16, Qdisc: "noqueue"},
		}, nil},
		{"cut headline", "2: eth0: <BROADCAST", nil, host.ErrInconclusive},
	})
}

func TestParseProcesses(t *testing.T) {
	runParser(t, parseProcesses, []parserCase[[]host.Process]{
		{"aux", "USER         PID %CPU %MEM    VSZ   RSS TTY      STAT START   TIME COMMAND\nroot          13  0.0  0.0      0     0 ?        S    Mar01   1:02 [ksoftirqd/0]\nroot 800 0.1 0.2 1 2 ? Ssl Mar01 1-01:00:01 /usr/bin/python3 -Es /usr/sbin/tuned -l -P\nroot 900 0 0 0 0 ? S Mar01 0:00 bash\n",
			[]host.Process{{PID: 13, Comm: "ksoftirqd/0", CPU: -1, Ticks: 6200}, {PID: 800, Comm: "tuned", Args: "/usr/bin/python3 -Es /usr/sbin/tuned -l -P", CPU: -1, Ticks: 9000100}}, nil},
		{"elF", "F S UID PID PPID C SZ RSS PSR STIME TTY TIME CMD\n4 S root 7 1 0 1 2 3 10:00 ? 00:00:05 /usr/sbin/irqbalance --foreground\n",
			[]host.Process{{PID: 7, Comm: "irqbalance", Args: "/usr/sbin/irqbalance --foreground", CPU: 3, Ticks: 500}}, nil},
		{"long start time", "PID PSR STARTED TIME COMMAND\n9 1 Mon Jan  2 15:04:05 2006 00:00:01 [napi/eth0-5]\n",
			[]host.Process{{PID: 9, Comm: "napi/eth0-5", CPU: 1, Ticks: 100}}, nil},
		{"nothing watched", "PID TIME CMD\n1 00:00:01 init\n2 cut\n", []host.Process{}, nil},
	})
}

func TestCPUFiles(t *testing.T) {
	for _, c := range []struct {
		name, table, summary string
		want                 map[string]string
	}{
		{"two columns", "0 0\n1 1\n", "", map[string]string{"cpu/online": "0-1", "cpu/present": "0-1", "cpu/possible": "0-1",
			"cpu/cpu0/topology/physical_package_id": "0", "cpu/cpu1/topology/physical_package_id": "1"}},
		{"two columns and no second threads", "0 0\n", "Thread(s) per core: 1\nNUMA node1 CPU(s):     0\n", map[string]string{
			"cpu/online": "0", "cpu/present": "0", "cpu/possible": "0", "cpu/cpu0/topology/physical_package_id": "0",
			"cpu/cpu0/topology/thread_siblings_list": "0", "cpu/cpu0/topology/core_cpus_list": "0", "node/online": "1", "node/node1/cpulist": "0"}},
		{"parsable", "# CPU,Core,Socket,Node,,L1d,L2\n0,0,0,0,,0,0\n1,0,0,0,,0,0\n", "", map[string]string{
			"cpu/online": "0-1", "cpu/present": "0-1", "cpu/possible": "0-1", "node/online": "0", "node/node0/cpulist": "0-1",
			"cpu/cpu0/topology/physical_package_id": "0", "cpu/cpu1/topology/physical_package_id": "0", "cpu/cpu0/topology/core_id": "0", "cpu/cpu1/topology/core_id": "0",
			"cpu/cpu0/topology/thread_siblings_list": "0-1", "cpu/cpu1/topology/thread_siblings_list": "0-1", "cpu/cpu0/topology/core_cpus_list": "0-1", "cpu/cpu1/topology/core_cpus_list": "0-1",
			"cpu/cpu0/cache/index0/level": "1", "cpu/cpu0/cache/index0/type": "Data", "cpu/cpu0/cache/index0/shared_cpu_list": "0-1",
			"cpu/cpu1/cache/index0/level": "1", "cpu/cpu1/cache/index0/type": "Data", "cpu/cpu1/cache/index0/shared_cpu_list": "0-1",
			"cpu/cpu0/cache/index2/level": "2", "cpu/cpu0/cache/index2/type": "Unified", "cpu/cpu0/cache/index2/shared_cpu_list": "0-1",
			"cpu/cpu1/cache/index2/level": "2", "cpu/cpu1/cache/index2/type": "Unified", "cpu/cpu1/cache/index2/shared_cpu_list": "0-1"}},
		{"offline", "CPU SOCKET L1d:L1i:L2:L3 ONLINE\n0 0 0:0:0:- yes\n1 - - no\n", "", map[string]string{
			"cpu/online": "0", "cpu/present": "0-1", "cpu/possible": "0-1", "cpu/cpu0/topology/physical_package_id": "0",
			"cpu/cpu0/cache/index0/level": "1", "cpu/cpu0/cache/index0/type": "Data", "cpu/cpu0/cache/index0/shared_cpu_list": "0",
			"cpu/cpu0/cache/index1/level": "1", "cpu/cpu0/cache/index1/type": "Instruction", "cpu/cpu0/cache/index1/shared_cpu_list": "0",
			"cpu/cpu0/cache/index2/level": "2", "cpu/cpu0/cache/index2/type": "Unified", "cpu/cpu0/cache/index2/shared_cpu_list": "0"}},
		{"summary alone", "", "On-line CPU(s) list:   0,2\nOff-line CPU(s) list:  1,3\n", map[string]string{"cpu/online": "0,2", "cpu/present": "0-3", "cpu/possible": "0-3"}},
		{"nothing", "", "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			rows, err := parseCPUTable(c.table)
			if c.table != "" && err != nil {
				t.Fatal(err)
			}
			var want map[string]string
			for name, text := range c.want {
				if want == nil {
					want = map[string]string{}
				}
				want[systemRoot+name] = text + "\n"
			}
			if diff := cmp.Diff(want, cpuFiles(rows, parseSummary(c.summary))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for _, bad := range []string{"", "x,0\n", "-1 0\n", "9999999 0\n", "../x 0\n"} {
		if rows, err := parseCPUTable(bad); err == nil {
			t.Errorf("%q: %v without error", bad, rows)
		}
	}
}

func TestEthtoolDevice(t *testing.T) {
	for file, want := range map[string]string{
		"ethtool_eth0": "eth0", "ethtool_-i_br-ens3": "br-ens3", "ethtool_-S_tap0e778df8-ca": "tap0e778df8-ca",
		"ethtool_-l_vxlan_sys_4789": "vxlan_sys_4789", "ethtool_vxlan_sys_4789": "vxlan_sys_4789", "ethtool_--show-channels_a_b": "a_b",
		"ethtool_--show-eee_eth0": "", "ethtool_-n_eth0_rx-flow-hash_udp4": "", "ethtool_": "", "ethtool_-i_": "", "tc_eth0": "", "ethtool_averyverylongname": "",
	} {
		if got, ok := ethtoolDevice(file); got != want && ok || ok != (want != "") {
			t.Errorf("%s: %q, %v; want %q", file, got, ok, want)
		}
	}
}

// fuzzParser holds every parser to: no panic, and an error exactly with the zero value.
func fuzzParser[T any](f *testing.F, parse func(string) (T, error), seeds ...string) {
	for _, s := range append(seeds, "", "Cannot get device: Operation not supported\n", "a: 1\n", ":\n:\n", "RX: n/a\n") {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parse(text)
		zero := reflect.ValueOf(&got).Elem().IsZero()
		if (err != nil) != zero {
			t.Errorf("%q: %+v with error %v", text, got, err)
		}
	})
}

func FuzzDriverInfo(f *testing.F) { fuzzParser(f, parseDriverInfo, "driver: i40e\nbus-info: x\n") }
func FuzzChannels(f *testing.F) {
	fuzzParser(f, parseChannels, "Pre-set maximums:\nCombined: 4\nCurrent hardware settings:\nCombined: 2\n")
}
func FuzzRings(f *testing.F) {
	fuzzParser(f, parseRings, "Pre-set maximums:\nRX: 4\nCurrent hardware settings:\nRX: 2\n")
}
func FuzzCoalesce(f *testing.F) {
	fuzzParser(f, parseCoalesce, "Adaptive RX: on  TX: off\nrx-usecs: 3\n")
}
func FuzzFeatures(f *testing.F) { fuzzParser(f, parseFeatures, "large-receive-offload: off [fixed]\n") }
func FuzzRSS(f *testing.F) {
	fuzzParser(f, parseRSS, "RX flow hash indirection table for eth0 with 4 RX ring(s):\n 0: 0 1\nRSS hash key:\n00:11\n")
}
func FuzzHashFields(f *testing.F) {
	fuzzParser(f, parseHashFields, "use these fields for computing Hash flow key:\nIP SA\n")
}
func FuzzStats(f *testing.F) {
	fuzzParser(f, parseStats, "NIC statistics:\n  Rx Queue#: 1\n    a: 1\n      b: 2\n")
}
func FuzzLinks(f *testing.F) { fuzzParser(f, parseLinks, linkText) }
func FuzzProcesses(f *testing.F) {
	fuzzParser(f, parseProcesses, "PID PSR STARTED TIME COMMAND\n9 1 Mon Jan  2 15:04:05 2006 00:00:01 [napi/eth0-5]\n")
}
func FuzzCPUTable(f *testing.F) {
	fuzzParser(f, func(text string) ([]cpuRow, error) {
		rows, err := parseCPUTable(text)
		for name := range cpuFiles(rows, parseSummary(text)) {
			if !fs.ValidPath(name) || strings.Contains(name, "..") {
				return nil, nil // reported as a zero value without error
			}
		}
		return rows, err
	}, "# CPU,Core,Socket,Node\n0,0,0,0\n", "CPU NODE SOCKET CORE L1d:L1i:L2:L3 ONLINE\n0 0 0 0 0:0:0:0 yes\n")
}
