package probes

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/napitune/napitune/probes/counters"
)

// bits are a feature string with some of them set.
func bits(set ...int) string {
	out := []byte(strings.Repeat("0", 64))
	for _, bit := range set {
		out[bit] = '1'
	}
	return string(out)
}

func TestTimeControl(t *testing.T) {
	const asks = virtioDeviceStatistics
	slow := errors.New("slow device is gone")
	for _, tt := range []struct {
		name     string
		features map[string]string
		state    counters.State
		reads    int      // of eth0
		says     []string // parts of the reason
	}{
		{"nobody asked", nil, counters.Off, 0, nil},
		{"no such device", map[string]string{}, counters.Off, 0, []string{"no network device is virtio-net"}},
		{"unread", map[string]string{"eth0": ""}, counters.Unsupported, 0, []string{"eth0: its features could not be read"}},
		{"no queue", map[string]string{"eth0": bits(0, 5, asks)}, counters.Unsupported, 0, []string{"eth0: it has no control queue"}},
		{"no statistics", map[string]string{"eth0": bits(17, 22)}, counters.Unsupported, 0, []string{"VIRTIO_NET_F_DEVICE_STATS"}},
		{"offered", map[string]string{"eth0": bits(17, asks)}, counters.Timed, 5, []string{"eth0: control queue: ", " µs, by timing our own read (median of 5, at most "}},
		{"one of two", map[string]string{"eth0": bits(17, asks), "eth1": bits(17)}, counters.Timed, 5, []string{"median of 5", "; eth1: no read"}},
		{"fails", map[string]string{"gone": bits(17, asks)}, counters.Failed, 0, []string{"gone", slow.Error()}},
	} {
		calls := 0
		status, out := timeControl(tt.features, func(device string) error {
			calls++
			if device == "gone" {
				return slow
			}
			return nil
		})
		if status.State != tt.state || status.Name != controlReadProbe {
			t.Errorf("%s: state %q of %q, want %q", tt.name, status.State, status.Name, tt.state)
		}
		for _, part := range tt.says {
			if !strings.Contains(status.Reason, part) {
				t.Errorf("%s: reason %q, want %q in it", tt.name, status.Reason, part)
			}
		}
		switch {
		case tt.reads == 0 && len(out) > 0:
			t.Errorf("%s: read %+v", tt.name, out)
		case tt.reads > 0 && (len(out) != 1 || out[0].Device != "eth0" || out[0].Reads != tt.reads || calls != tt.reads):
			t.Errorf("%s: %d calls gave %+v, want %d of eth0", tt.name, calls, out, tt.reads)
		}
	}
}

// TestTimeControlSlow: a device that takes long is not asked five times.
func TestTimeControlSlow(t *testing.T) {
	const took = 60 * time.Millisecond
	_, out := timeControl(map[string]string{"eth0": bits(17, virtioDeviceStatistics)}, func(string) error {
		time.Sleep(took)
		return nil
	})
	if len(out) != 1 || out[0].Reads != 2 || out[0].MedianNs < uint64(took) || out[0].MostNs < out[0].MedianNs {
		t.Errorf("reads of %v gave %+v, want two", took, out)
	}
}

// TestReadDeviceStatistics reads those of a veth, whose driver has some too.
func TestReadDeviceStatistics(t *testing.T) {
	needRoot(t)
	inNamespace(t, lastCPU())
	p := makePair(t, 0)
	if err := readDeviceStatistics(p.in.Attrs().Name); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"lo", "nobody", "a-name-that-is-too-long"} {
		if err := readDeviceStatistics(name); err == nil {
			t.Errorf("statistics of %s were read", name)
		}
	}
}

// TestVirtioControl changes how many queues a virtio NIC uses, which the driver
// tells the device through the control queue. It runs in guests only:
//
//	lab test --kernel 6.1 --nic virtio,queues=4 ./probes -- -test.v -test.run TestVirtioControl
func TestVirtioControl(t *testing.T) {
	needRoot(t)
	if os.Getenv("NAPITUNE_GUEST") == "" {
		t.Skip("skipped: this is no guest of the lab, so its NIC is not ours to change")
	}
	devices := virtioDevices(t)
	if len(devices) == 0 {
		t.Skip("skipped: this guest has no virtio-net device")
	}
	s := openSession(t, Options{Probes: []string{"virtio-control"}})
	requireAttached(t, s, "virtio-control")
	t.Cleanup(func() { setChannels(t, devices[0], "4") })
	setChannels(t, devices[0], "2")
	c, err := s.Read()
	if err != nil {
		t.Fatal(err)
	}
	var took counters.Hist
	for _, row := range c.Control {
		took = took.Merge(row.CommandNs)
	}
	if took.Count() == 0 || took.Sum == 0 {
		t.Fatalf("no command of the control queue was seen: %+v", c.Control)
	}
	mean, _ := took.Mean()
	t.Logf("%d commands, %.0f ns each: %v", took.Count(), mean, s.objects["control"].find("command_end").rung)
}

func setChannels(t testing.TB, device, combined string) {
	t.Helper()
	if out, err := exec.Command("ethtool", "-L", device, "combined", combined).CombinedOutput(); err != nil {
		t.Fatalf("set %s combined channels of %s: %v\n%s", combined, device, err, out)
	}
}
