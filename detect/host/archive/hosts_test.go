package archive_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/archive"
)

// hostsFolder is the folder of captured hosts, which are not part of the project.
func hostsFolder(t testing.TB) string {
	t.Helper()
	folder := os.Getenv("NAPITUNE_HOSTS")
	if folder == "" && os.Getenv("CI") == "true" {
		t.Fatal("NAPITUNE_HOSTS is not set: the captured hosts must be tested in CI")
	}
	if folder == "" {
		t.Skip("NAPITUNE_HOSTS is not set: no captured hosts to open")
	}
	return folder
}

func openHost(t testing.TB, name string) *archive.Capture {
	t.Helper()
	c, err := archive.Open(filepath.Join(hostsFolder(t), name+".tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// conclusive reports whether an error is an answer that parsers may give.
func conclusive(err error) bool {
	return err == nil || errors.Is(err, host.ErrUnsupported) || errors.Is(err, fs.ErrNotExist) ||
		errors.Is(err, fs.ErrPermission) || errors.Is(err, host.ErrNotCaptured)
}

// askEthtool asks everything of one device and returns the errors by call.
func askEthtool(e host.Ethtool, dev string) map[string]error {
	errs := map[string]error{}
	_, errs["-i"] = e.DriverInfo(dev)
	_, errs["-l"] = e.Channels(dev)
	_, errs["-g"] = e.Rings(dev)
	_, errs["-c"] = e.Coalesce(dev)
	_, errs["-k"] = e.Features(dev)
	_, errs["-x"] = e.RSS(dev)
	_, errs["-S"] = e.Stats(dev)
	return errs
}

func TestEveryCapturedHostOpens(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(hostsFolder(t), "*", "*.tar.gz"))
	if err != nil || len(files) < 100 {
		t.Fatalf("%d captured hosts, %v; want the 100 and more of the index", len(files), err)
	}
	outputs := 0
	for _, file := range files {
		c, err := archive.Open(file)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, h := range c.Samples {
			if _, err := h.Ident(); err != nil {
				t.Errorf("%s: ident: %v", file, err)
			}
			entries, _ := h.ReadDir("sos_commands/networking")
			for _, e := range entries {
				option, dev, ok := strings.Cut(strings.TrimPrefix(e.Name(), "ethtool_"), "_")
				known := strings.Contains("-i -l -g -c -k -x -S", option)
				if !strings.HasPrefix(e.Name(), "ethtool_-") || !ok || !known {
					continue
				}
				outputs++
				if err := askEthtool(h.Ethtool, dev)[option]; !conclusive(err) || errors.Is(err, host.ErrNotCaptured) {
					t.Errorf("%s: ethtool %s %s: %v", file, option, dev, err)
				}
			}
		}
	}
	if outputs < 300 {
		t.Errorf("only %d outputs of ethtool were parsed", outputs)
	}
	t.Logf("%d hosts, %d outputs of ethtool", len(files), outputs)
}

func stat(t *testing.T, stats host.Stats, name string) uint64 {
	t.Helper()
	found := -1
	for i, s := range stats {
		if s.Name == name && found >= 0 {
			t.Errorf("counter %q twice", name)
		}
		if s.Name == name {
			found = i
		}
	}
	if found < 0 {
		t.Errorf("no counter %q", name)
		return 0
	}
	return stats[found].Value
}

// TestStatsOfHosts compares with numbers read off the files by hand.
func TestStatsOfHosts(t *testing.T) {
	for _, c := range []struct {
		host, dev string
		count     int
		values    map[string]uint64
	}{
		{"ethtool/ethq_i40e", "eth0", 202, map[string]uint64{"rx_packets": 371706048609, "tx-3.tx_packets": 27787829221, "rx-11.rx_bytes": 2974550330599, "port.rx_priority_7_xon_2_xoff": 0}},
		{"ethtool/ethq_vmxnet3", "eth0", 67, map[string]uint64{"txq1: TSO bytes tx": 1240681, "rxq0: LRO pkts rx": 5283, "rxq1: bcast bytes rx": 4360015, "txq0: drv dropped tx total: giant hdr": 0, "txq0: giant hdr": 0, "tx timeout count": 0}},
		{"ethtool/newrushbolt_i40e21_int_broken", "eth0", -1, map[string]uint64{"rx_packets": 2946091121154, "rx_errors": 341, "rx_crc_errors": 341, "tx-0.tx_packets": 108004507162}},
		{"ethtool/ethq_bnx2x", "eth0", -1, map[string]uint64{"[0]: rx_bytes": 209487403324, "[1]: rx_ucast_packets": 170492982}},
		{"ethtool/ethq_fsl_dpaa2_eth", "eth0", -1, map[string]uint64{"[hw] rx frames": 92343581, "[mac] rx 65-127 bytes": 46601925}},
		{"hotsos/openstack", "ens3", 13, map[string]uint64{"rx_queue_0_packets": 25933187, "tx_queue_0_kicks": 24869415}},
	} {
		t.Run(c.host, func(t *testing.T) {
			stats, err := openHost(t, c.host).Samples[0].Ethtool.Stats(c.dev)
			if err != nil {
				t.Fatal(err)
			}
			if c.count >= 0 && len(stats) != c.count {
				t.Errorf("%d counters, want %d", len(stats), c.count)
			}
			for name, want := range c.values {
				if got := stat(t, stats, name); got != want {
					t.Errorf("%s = %d, want %d", name, got, want)
				}
			}
		})
	}
}

func TestBrokenDriverInfo(t *testing.T) {
	got, err := openHost(t, "ethtool/newrushbolt_i40e21_int_broken").Samples[0].Ethtool.DriverInfo("eth0")
	want := host.DriverInfo{Driver: "i40e", Version: "4.18.0-348.el8.x86_64", Firmware: "3.25 0x800009e7 1.1638.0", Bus: "0000:1c:00.0"}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestSosreport(t *testing.T) {
	c := openHost(t, "hotsos/openstack")
	h := c.Samples[0]
	if c.Kind != archive.KindSosreport || len(c.Samples) != 1 || !c.Times[0].IsZero() {
		t.Errorf("kind %s, %d samples at %v", c.Kind, len(c.Samples), c.Times)
	}
	channels, err := h.Ethtool.Channels("ens3")
	if diff := cmp.Diff(host.Channels{MaxCombined: 1, Combined: 1}, channels); err != nil || diff != "" {
		t.Errorf("channels: %v %s", err, diff)
	}
	rings, err := h.Ethtool.Rings("ens9")
	if diff := cmp.Diff(host.Rings{MaxRx: 256, MaxTx: 256, Rx: 256, Tx: 256}, rings); err != nil || diff != "" {
		t.Errorf("rings: %v %s", err, diff)
	}
	coalesce, err := h.Ethtool.Coalesce("ens3")
	if err != nil || coalesce.Values["rx-frames"] != 1 || coalesce.AdaptiveRx == nil || *coalesce.AdaptiveRx || len(coalesce.Values) != 20 {
		t.Errorf("coalesce: %v %+v", err, coalesce)
	}
	features, err := h.Ethtool.Features("ens3")
	for name, want := range map[string]host.Feature{
		"rx-gro": {On: true, Requested: true}, "rx-gro-hw": {On: true, Requested: true}, "rx-lro": {Fixed: true},
		"rx-hashing": {Fixed: true}, "tx-nocache-copy": {}, "rx-ntuple-filter": {Fixed: true},
	} {
		if got, ok := features[name]; err != nil || !ok || got != want {
			t.Errorf("feature %s: %+v, want %+v (%v)", name, got, want, err)
		}
	}
	for what, err := range map[string]error{"channels": second(h.Ethtool.Channels("br-data")), "rings": second(h.Ethtool.Rings("br-ens3")), "driver": second(h.Ethtool.DriverInfo("lo"))} {
		if !errors.Is(err, host.ErrUnsupported) {
			t.Errorf("%s: %v, want %v", what, err, host.ErrUnsupported)
		}
	}
	for what, err := range map[string]error{"RSS": second(h.Ethtool.RSS("ens3")), "hash": second(h.Ethtool.HashFields("ens3", "udp4")),
		"processes": second(h.Processes()), "napis": second(h.Netdev.NAPIs()), "queues": second(h.Netdev.Queues()), "qstats": second(h.Netdev.QStats()),
		"file": second(h.ReadFile("sys/class/net/ens3/queues/rx-0/rps_cpus")), "folder": second(h.ReadDir("sys/class/net/ens3/queues"))} {
		if !errors.Is(err, host.ErrNotCaptured) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v, want %v alone", what, err, host.ErrNotCaptured)
		}
	}
	id, err := h.Ident()
	if diff := cmp.Diff(host.Ident{Release: "5.4.0-97-generic", Arch: "x86_64", Virtualization: "kvm"}, id); err != nil || diff != "" {
		t.Errorf("ident: %v %s", err, diff)
	}
	links, err := h.Links()
	if err != nil || len(links) != 24 {
		t.Fatalf("%d links, %v; want 24", len(links), err)
	}
	for _, want := range []host.Link{
		{Name: "ens3", Index: 2, Master: 9, Up: true, Running: true, MTU: 1500, RxQueues: 1, TxQueues: 1, Qdisc: "fq_codel"},
		{Name: "br-ens3", Index: 9, Kind: "bridge", Up: true, Running: true, MTU: 1500, RxQueues: 1, TxQueues: 1, Qdisc: "noqueue"},
		{Name: "br-int", Index: 12, Kind: "openvswitch", MTU: 1450, RxQueues: 1, TxQueues: 1, Qdisc: "noop"},
		{Name: "ens7", Index: 6, Master: 10, Up: true, Running: true, MTU: 1500, RxQueues: 1, TxQueues: 1, Qdisc: "fq_codel"},
	} {
		for _, got := range links {
			if got.Name == want.Name && got != want {
				t.Errorf("link %+v, want %+v", got, want)
			}
		}
	}
	entries, err := h.ReadDir("sys/class/net")
	if err != nil || len(entries) != 24 {
		t.Errorf("%d devices in sys/class/net, %v; want 24", len(entries), err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestCPUsFromLscpu(t *testing.T) {
	for _, c := range []struct{ host, file, want string }{
		{"netutils-linux/2xE2690.1mellanox_1emulex.L2.masterconf", "sys/devices/system/cpu/cpu8/topology/physical_package_id", "1\n"},
		{"netutils-linux/2xE2690.1mellanox_1emulex.L2.masterconf", "sys/devices/system/node/node1/cpulist", "8-15\n"},
		{"netutils-linux/1xE3-1271.I217_and_X710.L2_mixed.masterconf", "sys/devices/system/cpu/cpu3/topology/thread_siblings_list", "3\n"},
		{"netutils-linux/2xL5520.1x82576.L2_mixed.manual", "sys/devices/system/node/online", "1\n"},
		{"netutils-linux/mlx5.Q6700", "sys/devices/system/cpu/cpu2/cache/index2/shared_cpu_list", "0,2\n"},
		{"netutils-linux/igb.E5606", "sys/devices/system/cpu/online", "0-3\n"},
		{"hotsos/rabbitmq", "sys/devices/system/cpu/possible", "0-1\n"},
	} {
		got, err := openHost(t, c.host).Samples[0].ReadFile(c.file)
		if err != nil || string(got) != c.want {
			t.Errorf("%s %s: %q, %v; want %q", c.host, c.file, got, err, c.want)
		}
	}
}

func TestSamplesAreInNumericOrder(t *testing.T) {
	c := openHost(t, "netutils-linux/series_i7")
	if len(c.Samples) != 5 {
		t.Fatalf("%d samples, want 5", len(c.Samples))
	}
	first, err1 := c.Samples[0].ReadFile("proc/softirqs")
	last, err2 := c.Samples[4].ReadFile("proc/softirqs")
	if err1 != nil || err2 != nil || string(first) == string(last) {
		t.Errorf("samples 0 and 4: %v, %v, equal %v", err1, err2, string(first) == string(last))
	}
}

// TestLinkLoopsEnd walks every tree without following links and asks what every
// link leads to.
func TestLinkLoopsEnd(t *testing.T) {
	links := 0
	for _, name := range []string{"hwloc/32em64t-2n8c+dax+nvme+mic+dimms", "nri-plugins/server", "util-linux/x86_64-epyc_7451"} {
		fsys := openHost(t, name).Samples[0].FS
		err := fs.WalkDir(fsys, ".", func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.Type() == fs.ModeSymlink {
				links++
				_, _ = fs.Stat(fsys, path+"/cpu0/node0/cpu0/topology")
			}
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if links < 300 {
		t.Errorf("%d links met, want the hundreds that are there", links)
	}
}
