package lab

import (
	"fmt"
	"strconv"
	"strings"
)

// Addresses of the wire: NIC k of the guest has 10.99.k.2, the tap at its other
// end 10.99.k.1. What is sent to 10.99.k.9 reaches the NIC and is dropped
// silently by the guest's IP layer: load without a receiver.
func tapAddress(nic int) string { return fmt.Sprintf("10.99.%d.1", nic) }
func nowhere(nic int) string    { return fmt.Sprintf("10.99.%d.9", nic) }

// macAddress carries the NIC's number in its fifth byte: the guest's scripts
// find the address of an interface by it.
func macAddress(nic int) string { return fmt.Sprintf("52:54:00:99:%02x:02", nic) }

func tapName(nic int) string { return "tap" + strconv.Itoa(nic) }

// arguments is QEMU's command line for a machine whose files lie in run.
//
// One thread emulates all CPUs (thread=single): kernels patch their own text
// when probes are attached, which multi-threaded emulation does not survive.
// The CPU is an old one without anything that is dear to emulate. The kernel is
// an ELF file that QEMU enters directly, so that it does not unpack itself
// under emulation, which takes longer than the boot.
//
// NICs come last: without a bus of their own, devices after a bridge for
// another node would be put on that bridge.
func (m Machine) arguments(c Cache, run runDir, source string) []string {
	out := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "q35", "-accel", "tcg,thread=single,tb-size=512", "-cpu", "Nehalem,+rdrand",
		"-m", strconv.Itoa(m.MemoryMiB), "-smp", m.topology(),
		"-kernel", c.kernel(m.Kernel, "vmlinux"), "-initrd", c.kernel(m.Kernel, "initrd"),
		"-append", strings.Join(m.commandLine(), " "),
		"-chardev", "file,id=console,path=" + run.file("console"), "-serial", "chardev:console",
		"-device", "virtio-serial-pci,max_ports=4",
		"-chardev", "socket,id=out,path=" + run.file("out.sock"), "-device", "virtserialport,chardev=out,name=lab.out",
		"-chardev", "socket,id=wire,path=" + run.file("wire.sock"), "-device", "virtserialport,chardev=wire,name=lab.wire",
		"-chardev", "socket,id=asked,path=" + run.file("asked.sock"), "-device", "virtserialport,chardev=asked,name=" + monitorPort,
		"-chardev", "socket,id=qmp,path=" + run.file("qmp.sock"), "-mon", "chardev=qmp,mode=control",
		"-virtfs", "local,path=" + run.share() + ",mount_tag=lab,security_model=none,multidevs=remap",
	}
	if m.Steady {
		out = append(out, "-icount", "shift=0,sleep=on")
	}
	if source != "" {
		out = append(out, "-virtfs", "local,path="+source+",mount_tag=src,security_model=none,multidevs=remap,readonly=on")
	}
	out = append(out, disk("root", c.root(), "readonly=on")...)
	if m.Disk != "" {
		out = append(out, disk("overlay", m.Disk, "cache=unsafe")...)
	}
	for node := 0; m.Nodes > 1 && node < m.Nodes; node++ {
		per := m.CPUs / m.Nodes
		out = append(out,
			"-object", fmt.Sprintf("memory-backend-ram,id=mem%d,size=%dM", node, m.MemoryMiB/m.Nodes),
			"-numa", fmt.Sprintf("node,nodeid=%d,memdev=mem%d,cpus=%d-%d", node, node, node*per, (node+1)*per-1))
	}
	for i, nic := range m.NICs {
		out = append(out, m.nicArguments(i, nic)...)
	}
	return out
}

// disk is a drive whose serial number tells the guest what it is.
func disk(serial, path, option string) []string {
	return []string{
		"-drive", "if=none,format=raw,id=" + serial + ",file=" + path + "," + option,
		"-device", "virtio-blk-pci,num-queues=1,drive=" + serial + ",serial=" + serial,
	}
}

func (m Machine) topology() string {
	return fmt.Sprintf("%d,sockets=%d,cores=%d,threads=%d", m.CPUs, m.Nodes, m.CPUs/m.Nodes/m.threads(), m.threads())
}

// commandLine boots quickly (no mitigations, no audit, trusted entropy) and
// names interfaces eth0, eth1, … in the order of the command line.
func (m Machine) commandLine() []string {
	out := []string{
		"console=ttyS0", "quiet", "loglevel=4", "panic=-1", "net.ifnames=0", "mitigations=off", "nokaslr", "audit=0", "apparmor=0",
		"cryptomgr.notests", "no_timer_check", "tsc=reliable", "rcupdate.rcu_expedited=1", "random.trust_cpu=on", "raid=noautodetect",
		"lab.mode=" + string(m.Mode), "lab.modules=" + strings.Join(m.modules(), ","),
	}
	if m.Mode == ModeSystemd {
		out = append(out, "systemd.unit=lab.target", "systemd.show_status=0", "systemd.gpt_auto=0")
	}
	return append(out, m.Append...)
}

// nicArguments adds a NIC. With several nodes it sits behind a bridge of its
// own: that is where the kernel learns the node of a PCI device. One that can be
// unplugged needs a port of its own.
func (m Machine) nicArguments(i int, nic NIC) []string {
	var out []string
	switch {
	case m.Nodes > 1:
		out = append(out,
			"-device", fmt.Sprintf("pxb-pcie,id=pxb%d,bus_nr=%d,bus=pcie.0,numa_node=%d", i, 0xe0-0x10*i, i%m.Nodes),
			"-device", fmt.Sprintf("pcie-root-port,id=port%d,bus=pxb%d,chassis=%d,slot=%d", i, i, i+1, i))
	case nic.Port:
		out = append(out, "-device", fmt.Sprintf("pcie-root-port,id=port%d,bus=pcie.0,chassis=%d,slot=%d", i, i+1, i))
	}
	netdev := fmt.Sprintf("tap,id=net%d,ifname=%s,script=no,downscript=no,vhost=off", i, tapName(i))
	if nic.Queues > 1 {
		netdev += ",queues=" + strconv.Itoa(nic.Queues)
	}
	return append(out, "-netdev", netdev, "-device", m.nicDevice(i, nic))
}

// nicDevice is a NIC itself. A virtio NIC has a vector for each direction of
// each queue, one for its configuration and one to spare.
func (m Machine) nicDevice(i int, nic NIC) string {
	model, _, _ := nic.model()
	device := fmt.Sprintf("%s,id=nic%d,netdev=net%d,mac=%s,romfile=", model, i, i, macAddress(i))
	if m.Nodes > 1 || nic.Port {
		device += fmt.Sprintf(",bus=port%d", i)
	}
	if nic.Queues > 1 {
		device += fmt.Sprintf(",mq=on,vectors=%d", 2*nic.Queues+2)
	}
	if nic.RSS {
		device += ",rss=on"
	}
	if nic.Plain {
		device += ",guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off"
	}
	return device
}

// tapCommands make the host's end of the wire of a NIC, in the run's namespace.
func (m Machine) tapCommands(i int) [][]string {
	tap := tapName(i)
	add := []string{"ip", "tuntap", "add", "dev", tap, "mode", "tap", "vnet_hdr"}
	if m.NICs[i].Queues > 1 {
		add = append(add, "multi_queue")
	}
	return [][]string{
		add,
		{"ip", "address", "add", tapAddress(i) + "/24", "dev", tap},
		{"ip", "link", "set", tap, "up", "txqueuelen", "10000"},
		{"ip", "neighbour", "replace", nowhere(i), "lladdr", macAddress(i), "dev", tap, "nud", "permanent"},
	}
}
