package detect

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect/host"
)

func TestQueueStats(t *testing.T) {
	rx, tx := QueueID{N: 1}, QueueID{Tx: true, N: 1}
	for driver, tc := range map[string]struct {
		stats host.Stats
		want  map[QueueID]map[string]uint64
	}{
		"virtio_net up to 6.9": {
			host.Stats{{Name: "rx_queue_1_packets", Value: 5}, {Name: "rx_queue_1_bytes", Value: 6}, {Name: "rx_queue_1_drops", Value: 7}, {Name: "rx_queue_1_kicks", Value: 9}, {Name: "tx_queue_1_packets", Value: 8}},
			map[QueueID]map[string]uint64{rx: {"packets": 5, "bytes": 6, "drops": 7, "kicks": 9}, tx: {"packets": 8}},
		},
		"virtio_net from 6.11": {host.Stats{{Name: "rx1_drops", Value: 7}, {Name: "rx_drops", Value: 9}, {Name: "tx1_kicks", Value: 1}}, map[QueueID]map[string]uint64{rx: {"drops": 7}, tx: {"kicks": 1}}},
		"i40e":                 {host.Stats{{Name: "rx-1.packets", Value: 5}, {Name: "tx-1.bytes", Value: 6}, {Name: "veb.tc_1_rx_packets", Value: 9}}, map[QueueID]map[string]uint64{rx: {"packets": 5}, tx: {"bytes": 6}}},
		"i40e of old":          {host.Stats{{Name: "rx-1.rx_packets", Value: 5}, {Name: "tx-1.tx_bytes", Value: 6}}, map[QueueID]map[string]uint64{rx: {"packets": 5}, tx: {"bytes": 6}}},
		"be2net":               {host.Stats{{Name: "rxq1: rx_pkts", Value: 5}, {Name: "rxq1: rx_bytes", Value: 6}, {Name: "rxq1: rx_drops_no_frags", Value: 2}, {Name: "rx_crc_errors", Value: 1}}, map[QueueID]map[string]uint64{rx: {"packets": 5, "bytes": 6, "drops": 2}}},
		"mlx5":                 {host.Stats{{Name: "rx1_packets", Value: 5}, {Name: "tx1_bytes", Value: 6}, {Name: "tx1_dropped", Value: 2}, {Name: "rx_packets", Value: 9}, {Name: "ch1_poll", Value: 4}}, map[QueueID]map[string]uint64{rx: {"packets": 5}, tx: {"bytes": 6, "drops": 2}}},
		"bnxt_en": {
			host.Stats{{Name: "[1]: rx_ucast_packets", Value: 5}, {Name: "[1]: rx_mcast_packets", Value: 1}, {Name: "[1]: rx_discards", Value: 2}, {Name: "[1]: tx_ucast_bytes", Value: 6}, {Name: "[1]: tpa_packets", Value: 9}},
			map[QueueID]map[string]uint64{rx: {"packets": 6, "drops": 2}, tx: {"bytes": 6}},
		},
		"ena": {host.Stats{{Name: "queue_1_rx_cnt", Value: 5}, {Name: "queue_1_tx_bytes", Value: 6}, {Name: "queue_1_tx_queue_stop", Value: 7}}, map[QueueID]map[string]uint64{rx: {"packets": 5}, tx: {"bytes": 6}}},
		"vmxnet3": {
			host.Stats{{Name: "Tx Queue#", Value: 1}, {Name: "  ucast pkts tx", Value: 8}, {Name: "Rx Queue#", Value: 1}, {Name: "  ucast pkts rx", Value: 5}, {Name: "  bcast pkts rx", Value: 1}, {Name: "  pkts rx OOB", Value: 3}, {Name: "tx timeout count", Value: 4}},
			map[QueueID]map[string]uint64{rx: {"packets": 6, "drops": 3}, tx: {"packets": 8}},
		},
		"vmxnet3 with qualified names": {
			host.Stats{{Name: "rxq1: ucast pkts rx", Value: 5}, {Name: "rxq1: drv dropped rx total", Value: 2}, {Name: "rxq1: drv dropped rx total: fcs", Value: 2}},
			map[QueueID]map[string]uint64{rx: {"packets": 5, "drops": 2}},
		},
		"hns3":                  {host.Stats{{Name: "rxq1_packets", Value: 5}}, map[QueueID]map[string]uint64{rx: {"packets": 5}}},
		"histogram of tg3":      {host.Stats{{Name: "rx_64_byte_packets", Value: 5}, {Name: "rx_65_to_127_byte_packets", Value: 5}, {Name: "rx_64_or_less_octet_packets", Value: 1}, {Name: "tx_1024_to_1522_byte_packets", Value: 1}}, nil},
		"totals of e1000e":      {host.Stats{{Name: "rx_packets", Value: 5}, {Name: "rx_bytes", Value: 5}, {Name: "tx_restart_queue", Value: 5}}, nil},
		"an impossible number":  {host.Stats{{Name: "rx_queue_99999999999_packets", Value: 5}, {Name: "rx_queue_4096_packets", Value: 5}}, nil},
		"a block out of bounds": {host.Stats{{Name: "Rx Queue#", Value: 1 << 40}, {Name: "ucast pkts rx", Value: 5}}, nil},
	} {
		if diff := cmp.Diff(tc.want, queueStats(tc.stats)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", driver, diff)
		}
	}
}

func FuzzQueueCounter(f *testing.F) {
	for _, seed := range []string{"rx_queue_0_packets", "[3]: rx_ucast_packets", "rx-1.rx_bytes", "queue_0_rx_cnt", "rxq1: pkts rx OOB"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		id, counter, ok := queueCounter(name)
		if ok != (counter != "") || ok && (id.N < 0 || id.N > maxQueue) || !ok && id != (QueueID{}) {
			t.Fatalf("queueCounter(%q) = %+v, %q, %v", name, id, counter, ok)
		}
		queueStats(host.Stats{{Name: name, Value: 1}})
	})
}

func TestQStatsWin(t *testing.T) {
	sc := scene{netlink: []host.Link{{Name: "eth0", Index: 7, Up: true, Running: true}}}
	sc.ethtool.Stats = func(string) (host.Stats, error) {
		return host.Stats{{Name: "rx_queue_0_packets", Value: 1}, {Name: "rx_queue_0_drops", Value: 2}}, nil
	}
	sc.netdev.QStats = func() ([]host.QStat, error) {
		return []host.QStat{{IfIndex: 7, Counters: map[string]uint64{"rx-packets": 10, "rx-csum-none": 3}}, {IfIndex: 9, Counters: map[string]uint64{"rx-packets": 1}}}, nil
	}
	s, err := Collect(sc.host(t))
	if err != nil {
		t.Fatal(err)
	}
	want := map[QueueID]map[string]uint64{{}: {"packets": 10, "drops": 2}}
	if diff := cmp.Diff(want, s.Device("eth0").QueueRate); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
}
