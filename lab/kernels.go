package lab

import (
	"fmt"
	"strings"
)

// Kernel is one kernel that guests boot.
type Kernel struct {
	Name  string // as --kernel says it
	Suite string // the Debian suite that packages it
	Why   string // what it is here for
}

// Kernels lists the kernels of the lab, oldest first.
func Kernels() []Kernel {
	return []Kernel{
		{"6.1", "bookworm", "what most Debian 12 hosts run; netdev-genl has no queue objects"},
		{"6.12", "bookworm-backports", "queue and NAPI objects, per-NAPI settings nearly"},
		{"new", "trixie-backports", "the newest that Debian packages for a stable release"},
	}
}

// FindKernel finds a kernel by name.
func FindKernel(name string) (Kernel, error) {
	var names []string
	for _, k := range Kernels() {
		if k.Name == name {
			return k, nil
		}
		names = append(names, k.Name)
	}
	return Kernel{}, fmt.Errorf("kernel %q: there are %s", name, strings.Join(names, ", "))
}

// guestModules are what a guest can load; dependencies follow by themselves.
// The first line is for the boot, the second for NICs, the rest for what tests
// build on top of them.
func guestModules() []string {
	return strings.Fields(`
		virtio_pci virtio_console virtio_blk squashfs overlay 9pnet_virtio 9p ext4 crc32c_generic crc32c-intel
		virtio_net e1000e igb vmxnet3
		veth dummy bridge bonding 8021q vxlan wireguard tun ifb sch_fq sch_fq_codel sch_htb sch_ingress act_mirred
		cls_matchall cls_bpf
		nf_conntrack nf_tables nft_ct rtc_cmos button`)
}
