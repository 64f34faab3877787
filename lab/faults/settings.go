package faults

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// settingFiles are all files that napitune may write, and some that it must
// not. Interrupts are read whatever device they belong to.
func settingFiles() []string {
	return []string{
		"/proc/irq/*/smp_affinity_list",
		"/sys/class/net/*/queues/*/*_cpus", "/sys/class/net/*/queues/*/*_rxqs", "/sys/class/net/*/queues/*/rps_flow_cnt",
		"/sys/class/net/*/gro_flush_timeout", "/sys/class/net/*/napi_defer_hard_irqs", "/sys/class/net/*/threaded",
		"/sys/class/net/*/tx_queue_len", "/sys/class/net/*/mtu",
		"/proc/sys/net/core/*", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding",
	}
}

// ethtoolViews are the settings of a NIC that have no file.
func ethtoolViews() []string {
	return []string{"-k", "-l", "-g", "-c", "-a", "-x", "-n rx-flow-hash udp4", "-n rx-flow-hash udp6"}
}

// Settings are the state of a host: text by where it was read.
type Settings map[string]string

// ReadSettings reads everything.
func ReadSettings(devs ...string) (Settings, error) {
	out := Settings{}
	for _, pattern := range settingFiles() {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			content, err := ReadFile(path)
			if err != nil {
				// A queue without XPS or a file for writing only says so; that is state too.
				content = []byte("error: " + rootCause(err))
			}
			out[path] = string(content)
		}
	}
	for _, dev := range devs {
		for _, view := range ethtoolViews() {
			words := strings.Fields(view)
			args := append([]string{words[0], dev}, words[1:]...)
			text, err := exec.Command("ethtool", args...).Output()
			var ended *exec.ExitError
			if err != nil && !errors.As(err, &ended) {
				return nil, err
			}
			out["ethtool "+strings.Join(args, " ")] = string(text)
		}
	}
	return out, nil
}

// ReadFile reads a file, and one of an interrupt until it is not on the move:
// then it shows where the interrupt was, or nothing, for as long as the CPU that
// moves it waits for its turn (kernel/irq/proc.c show_irq_affinity takes no lock;
// 28 of 4,600 readings in a guest). The hwirq of sysfs is shown under the lock that
// the move holds.
func ReadFile(path string) ([]byte, error) {
	content, err := os.ReadFile(path)
	irq, ok := strings.CutPrefix(path, "/proc/irq/")
	for moved := ok; moved && err == nil; {
		_, _ = os.ReadFile("/sys/kernel/irq/" + filepath.Dir(irq) + "/hwirq")
		before := content
		content, err = os.ReadFile(path)
		moved = !bytes.Equal(before, content)
	}
	return content, err
}

func rootCause(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}

// Diff lists what differs from another state, one line each, sorted.
func (s Settings) Diff(other Settings) []string {
	names := map[string]bool{}
	for name := range s {
		names[name] = true
	}
	for name := range other {
		names[name] = true
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if was, is := s[name], other[name]; was != is {
			out = append(out, name+": "+firstDifference(was, is))
		}
	}
	return out
}

// firstDifference keeps a difference of long texts to its first line.
func firstDifference(was, is string) string {
	a, b := strings.Split(strings.TrimRight(was, "\n"), "\n"), strings.Split(strings.TrimRight(is, "\n"), "\n")
	i := 0
	for i < len(a)-1 && i < len(b)-1 && a[i] == b[i] {
		i++
	}
	return strings.TrimSpace(a[i]) + " → " + strings.TrimSpace(b[i])
}

// Restore writes the files back that differ and says what could not be. What
// only ethtool can set is left: a fault that changes it says how to undo it.
func (s Settings) Restore(now Settings) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(s)) {
		if strings.HasPrefix(name, "/") && s[name] != now[name] && !strings.HasPrefix(s[name], "error: ") {
			errs = append(errs, os.WriteFile(name, []byte(s[name]), 0))
		}
	}
	return errors.Join(errs...)
}
