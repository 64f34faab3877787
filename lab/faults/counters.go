package faults

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/napitune/napitune/lab/wire"
)

// Counters are the kernel's own counters of network work, read here without
// napitune's code: the lab is a witness.
type Counters struct {
	Processed map[int]uint64    // packets that went up the stack, by CPU (softnet_stat column 1)
	Dropped   map[int]uint64    // lost from the backlog, by CPU (column 2)
	Squeezed  map[int]uint64    // runs that ended early, by CPU (column 3)
	Steered   map[int]uint64    // inter-processor interrupts of RPS, by CPU that got them (column 10)
	Frames    uint64            // received by all NICs
	Sent      map[int]uint64    // frames sent, by queue of the NIC
	Queues    map[string]uint64 // ethtool -S, such as rx0_packets; drivers need not have it
}

// Window is what the counters moved by around a load.
type Window struct {
	Counters
	Load  wire.Sent // what was sent to the NIC
	Split int       // queue pairs whose interrupts may go to different CPUs, at its end
}

// parseSoftnet reads /proc/net/softnet_stat. The CPU is column 13 since 5.10
// (net/core/net-procfs.c softnet_seq_show); guests of the lab are newer.
func parseSoftnet(text []byte) (Counters, error) {
	c := Counters{Processed: map[int]uint64{}, Dropped: map[int]uint64{}, Squeezed: map[int]uint64{}, Steered: map[int]uint64{}, Sent: map[int]uint64{}, Queues: map[string]uint64{}}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 13 {
			return Counters{}, fmt.Errorf("softnet_stat: %d columns in %q, want 13", len(words), lines.Text())
		}
		values := make([]uint64, 13)
		for i := range values {
			n, err := strconv.ParseUint(words[i], 16, 32)
			if err != nil {
				return Counters{}, fmt.Errorf("softnet_stat: column %d: %w", i+1, err)
			}
			values[i] = n
		}
		cpu := int(values[12])
		c.Processed[cpu], c.Dropped[cpu], c.Squeezed[cpu], c.Steered[cpu] = values[0], values[1], values[2], values[9]
	}
	return c, lines.Err()
}

// parseStatistics reads the packet counters of "ethtool -S": per queue where
// the driver names queues.
func parseStatistics(text []byte) map[string]uint64 {
	out := map[string]uint64{}
	for line := range strings.Lines(string(text)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
		if !ok || err != nil || !strings.HasSuffix(name, "_packets") {
			continue
		}
		// virtio: rx_queue_0_packets in old kernels, rx0_packets in newer ones.
		out[strings.Replace(name, "_queue_", "", 1)] = n
	}
	return out
}

// parseQdiscs reads the frames of each transmit queue from "tc -s -j qdisc": the
// queues of mq have a queueing discipline each, the parent of queue 0 is ":1".
// Drivers count queues in different ways, and some only over netlink.
func parseQdiscs(text []byte) (map[int]uint64, error) {
	var list []struct {
		Parent  string `json:"parent"`
		Packets uint64 `json:"packets"`
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("tc -s -j qdisc: %w", err)
	}
	out := map[int]uint64{}
	for _, q := range list {
		_, minor, ok := strings.Cut(q.Parent, ":")
		n, err := strconv.ParseUint(minor, 16, 16)
		if ok && err == nil && n > 0 {
			out[int(n)-1] += q.Packets
		}
	}
	return out, nil
}

// parseTicks reads the ticks of all CPUs from /proc/stat and returns, by CPU,
// those of interrupts and softirqs and those of all kinds. Columns: user nice
// system idle iowait irq softirq steal (fs/proc/stat.c show_stat).
func parseTicks(text []byte) (packets, all map[int]uint64, err error) {
	packets, all = map[int]uint64{}, map[int]uint64{}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) == 0 || !strings.HasPrefix(words[0], "cpu") || words[0] == "cpu" {
			continue
		}
		cpu, err := strconv.Atoi(words[0][len("cpu"):])
		if err != nil || len(words) < 9 {
			return nil, nil, fmt.Errorf("/proc/stat: %q: want a CPU and eight columns", strings.TrimSpace(line))
		}
		for i, word := range words[1:9] {
			n, err := strconv.ParseUint(word, 10, 64)
			if err != nil {
				return nil, nil, fmt.Errorf("/proc/stat: column %d: %w", i+1, err)
			}
			all[cpu] += n
			if i == 5 || i == 6 {
				packets[cpu] += n
			}
		}
	}
	return packets, all, nil
}

// busiest is the largest share of its time that a CPU spent on packets between
// two readings of /proc/stat.
func busiest(before, after []byte) (float64, error) {
	p0, a0, err := parseTicks(before)
	if err != nil {
		return 0, err
	}
	p1, a1, err := parseTicks(after)
	if err != nil {
		return 0, err
	}
	most := 0.0
	for cpu := range a1 {
		most = max(most, ratio(float64(p1[cpu])-float64(p0[cpu]), float64(a1[cpu])-float64(a0[cpu])))
	}
	return most, nil
}

func readCounters(dev string) (Counters, error) {
	text, err := os.ReadFile("/proc/net/softnet_stat")
	if err != nil {
		return Counters{}, err
	}
	c, err := parseSoftnet(text)
	if err != nil {
		return Counters{}, err
	}
	paths, err := filepath.Glob("/sys/class/net/eth*/statistics/rx_packets")
	if err != nil {
		return Counters{}, err
	}
	for _, path := range paths {
		frames, err := os.ReadFile(path)
		if err != nil {
			return Counters{}, err
		}
		n, err := strconv.ParseUint(strings.TrimSpace(string(frames)), 10, 64)
		if err != nil {
			return Counters{}, fmt.Errorf("%s: %w", path, err)
		}
		c.Frames += n
	}
	text, err = exec.Command("tc", "-s", "-j", "qdisc", "show", "dev", dev).Output()
	if err != nil {
		return Counters{}, fmt.Errorf("tc qdisc: %w", err)
	}
	// Some drivers have no statistics; then there is nothing to judge queues by.
	if text, err := exec.Command("ethtool", "-S", dev).Output(); err == nil {
		c.Queues = parseStatistics(text)
	}
	c.Sent, err = parseQdiscs(text)
	return c, err
}

// since is what moved from an earlier reading. The columns of softnet_stat are
// 32 bits wide.
func (c Counters) since(earlier Counters) Counters {
	narrow := func(now, then map[int]uint64) map[int]uint64 {
		out := map[int]uint64{}
		for cpu, n := range now {
			out[cpu] = uint64(uint32(n) - uint32(then[cpu]))
		}
		return out
	}
	out := Counters{
		Processed: narrow(c.Processed, earlier.Processed), Dropped: narrow(c.Dropped, earlier.Dropped),
		Squeezed: narrow(c.Squeezed, earlier.Squeezed), Steered: narrow(c.Steered, earlier.Steered),
		Frames: c.Frames - earlier.Frames, Sent: map[int]uint64{}, Queues: map[string]uint64{},
	}
	for name, n := range c.Queues {
		out.Queues[name] = n - earlier.Queues[name]
	}
	for queue, n := range c.Sent {
		out.Sent[queue] = n - earlier.Sent[queue]
	}
	return out
}

// Metric is the one figure by which a fault hurts.
type Metric struct {
	Name  string // in words, with its unit
	Lower bool   // less is better
	Of    func(Window) float64
}

func total(counts map[int]uint64) float64 {
	sum := 0.0
	for _, n := range counts {
		sum += float64(n)
	}
	return sum
}

func ratio(part, whole float64) float64 {
	if whole == 0 {
		return 0
	}
	return part / whole
}

// maxShare is the largest share of the packets that one CPU sends up the stack.
func maxShare() Metric {
	return Metric{"largest share of one CPU of the packets processed", true, func(w Window) float64 {
		if len(w.Processed) == 0 {
			return 0
		}
		return ratio(float64(slices.Max(slices.Collect(maps.Values(w.Processed)))), total(w.Processed))
	}}
}

// onCPUs is the share of packets processed by CPUs that should have none.
func onCPUs(cpus ...int) Metric {
	return Metric{"share of the packets processed by the wrong CPUs", true, func(w Window) float64 {
		wrong := 0.0
		for _, cpu := range cpus {
			wrong += float64(w.Processed[cpu])
		}
		return ratio(wrong, total(w.Processed))
	}}
}

// steered is how often RPS woke another CPU for a packet.
func steered() Metric {
	return Metric{"inter-processor interrupts of RPS per packet", true, func(w Window) float64 {
		return ratio(total(w.Steered), float64(w.Frames))
	}}
}

func squeezed() Metric {
	return Metric{"receive runs that ended early per 1,000 packets", true, func(w Window) float64 {
		return 1000 * ratio(total(w.Squeezed), float64(w.Frames))
	}}
}

func dropped() Metric {
	return Metric{"share of the packets lost from the backlog", true, func(w Window) float64 {
		return ratio(total(w.Dropped), float64(w.Frames))
	}}
}

// merged is what GRO saves: frames for each packet that goes up the stack.
func merged() Metric {
	return Metric{"frames merged into one packet", false, func(w Window) float64 {
		return ratio(float64(w.Frames), total(w.Processed))
	}}
}

// crossed is the share of frames that leave on another queue than the one
// whose interrupt the sending CPU takes. The load sends from CPU 0 only.
func crossed(own int) Metric {
	return Metric{"share of the frames sent on another CPU's queue", true, func(w Window) float64 {
		return 1 - ratio(float64(w.Sent[own]), total(w.Sent))
	}}
}

// split is how many queue pairs bring a packet's cache lines to two CPUs.
func split() Metric {
	return Metric{"queue pairs on two CPUs", true, func(w Window) float64 { return float64(w.Split) }}
}

// none is for faults whose harm emulation cannot show: the setting is judged.
func none() Metric {
	return Metric{"", true, func(Window) float64 { return 0 }}
}

var errNothingArrived = errors.New("the NICs received less than half of what was sent")
