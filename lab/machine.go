// Package lab boots Debian guests under QEMU, so that advice, apply and
// rollback can be tried on real multi-queue NICs of a real kernel.
//
// A guest needs no root and leaves nothing behind: it runs in network, mount
// and process namespaces of its own, its NICs are wired to taps in there, and
// all of it dies with the run. Everything is emulated (TCG), which is slow but
// the same on every machine: shares and ratios mean something, rates do not.
package lab

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Mode is how a guest starts the command it was booted for.
type Mode string

const (
	// ModeRun runs the command as the only process, seconds after the boot.
	ModeRun Mode = "run"
	// ModeSystemd boots Debian completely and runs the command as a service
	// after multi-user.target.
	ModeSystemd Mode = "systemd"
)

// Machine describes a guest. Zero values other than CPUs, MemoryMiB, Kernel
// and Mode are sensible; Normalize fills those.
type Machine struct {
	Kernel    string   // name of a Kernel: 6.1, 6.12 or new
	CPUs      int      // virtual CPUs, 1 to 64
	SMT       bool     // two threads to a core
	Nodes     int      // NUMA nodes; NIC k hangs on node k modulo Nodes
	MemoryMiB int      // of all nodes together
	NICs      []NIC    // eth0, eth1, …
	Mode      Mode     // how the command is started
	Disk      string   // file that keeps the root's changes over boots; empty: they are lost
	Append    []string // more words of the kernel's command line
	// Steady has the guest's clock count instructions, one a nanosecond for all
	// CPUs together, while any of them works: how long something takes there does
	// not depend on what else the host does.
	Steady bool
}

// NIC is one network interface of a guest.
type NIC struct {
	Model  string // virtio, e1000e, igb or vmxnet3
	Queues int    // queue pairs of the tap; above 1 for virtio only
	RSS    bool   // virtio: the guest may set key and table (VIRTIO_NET_F_RSS)
	Plain  bool   // virtio: no offloads towards the guest, so that frames arrive as they were on the wire
	Port   bool   // virtio: behind a port of its own, so that it can be unplugged
}

// model is QEMU's device and the kernel's module of a kind of NIC.
func (n NIC) model() (device, module string, known bool) {
	switch n.Model {
	case "virtio":
		return "virtio-net-pci", "virtio_net", true
	case "e1000e", "igb", "vmxnet3":
		return n.Model, n.Model, true
	}
	return "", "", false
}

// ParseNIC reads the form of the command line: MODEL[,queues=N][,rss][,plain][,port].
func ParseNIC(text string) (NIC, error) {
	model, rest, _ := strings.Cut(text, ",")
	nic := NIC{Model: model, Queues: 1}
	if _, _, known := nic.model(); !known {
		return NIC{}, fmt.Errorf("nic %q: unknown model %q; there are virtio, e1000e, igb, vmxnet3", text, model)
	}
	for word := range strings.SplitSeq(rest, ",") {
		key, value, _ := strings.Cut(word, "=")
		switch {
		case word == "":
		case word == "rss":
			nic.RSS = true
		case word == "plain":
			nic.Plain = true
		case word == "port":
			nic.Port = true
		case key == "queues":
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 || n > 16 {
				return NIC{}, fmt.Errorf("nic %q: queues %q: want 1 to 16", text, value)
			}
			nic.Queues = n
		default:
			return NIC{}, fmt.Errorf("nic %q: unknown word %q; there are queues=N, rss, plain, port", text, word)
		}
	}
	if model != "virtio" && nic != (NIC{Model: model, Queues: 1}) {
		return NIC{}, fmt.Errorf("nic %q: queues, rss, plain and port are for virtio only", text)
	}
	return nic, nil
}

// String is the form that ParseNIC reads.
func (n NIC) String() string {
	out := n.Model
	if n.Queues > 1 {
		out += ",queues=" + strconv.Itoa(n.Queues)
	}
	if n.RSS {
		out += ",rss"
	}
	if n.Plain {
		out += ",plain"
	}
	if n.Port {
		out += ",port"
	}
	return out
}

// Normalize fills what was left out and says what cannot be.
func (m Machine) Normalize() (Machine, error) {
	m.Kernel, m.Mode = orDefault(m.Kernel, "6.1"), orDefault(m.Mode, ModeRun)
	m.CPUs, m.Nodes, m.MemoryMiB = orDefault(m.CPUs, 4), orDefault(m.Nodes, 1), orDefault(m.MemoryMiB, 1024)
	if len(m.NICs) == 0 {
		m.NICs = []NIC{{Model: "virtio", Queues: min(m.CPUs, 4)}}
	}
	var errs []error
	if _, err := FindKernel(m.Kernel); err != nil {
		errs = append(errs, err)
	}
	if m.Mode != ModeRun && m.Mode != ModeSystemd {
		errs = append(errs, fmt.Errorf("mode %q: want run or systemd", m.Mode))
	}
	if m.CPUs < 1 || m.CPUs > 64 {
		errs = append(errs, fmt.Errorf("cpus %d: want 1 to 64", m.CPUs))
	}
	if threads := m.threads(); m.Nodes < 1 || m.CPUs%(m.Nodes*threads) != 0 {
		errs = append(errs, fmt.Errorf("cpus %d cannot be shared equally by %d nodes with %d threads to a core", m.CPUs, m.Nodes, threads))
	}
	if len(m.NICs) > 8 {
		errs = append(errs, fmt.Errorf("%d NICs: at most 8", len(m.NICs)))
	}
	return m, errors.Join(errs...)
}

func orDefault[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

func (m Machine) threads() int {
	if m.SMT {
		return 2
	}
	return 1
}

// String is how the machine is called in results: what differs between them.
func (m Machine) String() string {
	words := []string{fmt.Sprintf("%dcpu", m.CPUs)}
	if m.SMT {
		words = append(words, "smt")
	}
	if m.Nodes > 1 {
		words = append(words, fmt.Sprintf("%dnode", m.Nodes))
	}
	for _, nic := range m.NICs {
		words = append(words, nic.String())
	}
	return strings.Join(append(append(words, m.Kernel), m.Append...), " ")
}

// modules are the kernel modules of the NICs, for run mode; under systemd udev
// loads them.
func (m Machine) modules() []string {
	var out []string
	for _, nic := range m.NICs {
		if _, module, _ := nic.model(); !slices.Contains(out, module) {
			out = append(out, module)
		}
	}
	return out
}
