package lab

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseNIC(t *testing.T) {
	for text, want := range map[string]NIC{
		"virtio":                    {Model: "virtio", Queues: 1},
		"virtio,queues=4":           {Model: "virtio", Queues: 4},
		"virtio,queues=8,rss,plain": {Model: "virtio", Queues: 8, RSS: true, Plain: true},
		"virtio,queues=4,port":      {Model: "virtio", Queues: 4, Port: true},
		"e1000e":                    {Model: "e1000e", Queues: 1},
	} {
		got, err := ParseNIC(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", text, diff)
		}
		if got.String() != text {
			t.Errorf("%s is written %s", text, got)
		}
	}
	for _, text := range []string{"", "ne2000", "virtio,queues=0", "virtio,queues=17", "virtio,queues", "virtio,fast", "e1000e,queues=2", "igb,rss"} {
		if nic, err := ParseNIC(text); err == nil {
			t.Errorf("%q: read as %+v", text, nic)
		}
	}
}

func FuzzParseNIC(f *testing.F) {
	for _, text := range []string{"virtio", "virtio,queues=4,rss", "igb", "e1000e,plain", "virtio,,queues=+3", "virtio,queues=04"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		nic, err := ParseNIC(text)
		if err != nil {
			return
		}
		again, err := ParseNIC(nic.String())
		if err != nil || again != nic {
			t.Errorf("%q: %+v is written %q and read as %+v, %v", text, nic, nic, again, err)
		}
	})
}

func TestNormalizeRefuses(t *testing.T) {
	for name, m := range map[string]Machine{
		"kernel":         {Kernel: "2.6"},
		"mode":           {Mode: "fast"},
		"no CPU":         {CPUs: -1},
		"odd threads":    {CPUs: 3, SMT: true},
		"unequal nodes":  {CPUs: 6, Nodes: 4},
		"threads, nodes": {CPUs: 6, Nodes: 2, SMT: true},
		"many NICs":      {NICs: make([]NIC, 9)},
	} {
		if _, err := m.Normalize(); err == nil {
			t.Errorf("%s: %+v is taken", name, m)
		}
	}
}

// Every NUMA node has its CPUs and every NIC a bridge on its node; what comes
// after a bridge would land on it, so NICs are last.
func TestArguments(t *testing.T) {
	m, err := Machine{CPUs: 8, SMT: true, Nodes: 2, NICs: []NIC{{Model: "virtio", Queues: 4, RSS: true}, {Model: "e1000e", Queues: 1}}, Disk: "/tmp/disk"}.Normalize()
	if err != nil {
		t.Fatal(err)
	}
	args := m.arguments(Cache{"/cache"}, "/run", "/module")
	text := strings.Join(args, " ")
	for _, want := range []string{
		"-smp 8,sockets=2,cores=2,threads=2",
		"-numa node,nodeid=0,memdev=mem0,cpus=0-3 ", "-numa node,nodeid=1,memdev=mem1,cpus=4-7 ",
		"pxb-pcie,id=pxb1,bus_nr=208,bus=pcie.0,numa_node=1 ",
		"-netdev tap,id=net0,ifname=tap0,script=no,downscript=no,vhost=off,queues=4 ",
		"virtio-net-pci,id=nic0,netdev=net0,mac=52:54:00:99:00:02,romfile=,bus=port0,mq=on,vectors=10,rss=on ",
		"e1000e,id=nic1,netdev=net1,mac=52:54:00:99:01:02,romfile=,bus=port1",
		"thread=single", "lab.modules=virtio_net,e1000e", "mount_tag=src", "file=/tmp/disk,",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in %s", want, text)
		}
	}
	first := slices.IndexFunc(args, func(a string) bool { return strings.HasPrefix(a, "pxb-pcie") })
	if i := slices.IndexFunc(args[first:], func(a string) bool { return strings.Contains(a, "virtio-blk") || a == "-virtfs" }); i >= 0 {
		t.Errorf("%s follows a bridge", args[first+i])
	}
}

func TestPayload(t *testing.T) {
	image := make([]byte, 4096)
	image[setupSectors] = 3
	binary.LittleEndian.PutUint32(image[payloadOffset:], 16)
	binary.LittleEndian.PutUint32(image[payloadLength:], 20)
	copy(image[2048+16:], "\xfd7zX payload     \x00\x00\x00\x00")
	payload, err := payloadOf(image)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(payload); got != "\xfd7zX payload    " {
		t.Errorf("payload %q", got)
	}
	if program, err := unpacker(payload); err != nil || program != "xz" {
		t.Errorf("unpacked by %q, %v", program, err)
	}
}

func FuzzPayload(f *testing.F) {
	f.Add([]byte("MZ"))
	f.Add(make([]byte, 4096))
	f.Add(slices.Repeat([]byte{0xff}, 1024))
	f.Fuzz(func(t *testing.T, image []byte) {
		if payload, err := payloadOf(image); err == nil {
			_, _ = unpacker(payload)
		}
	})
}

// The list that .ci/run installs names what Doctor looks for.
func TestPackages(t *testing.T) {
	for _, name := range []string{"qemu-system-x86", "mmdebstrap", "squashfs-tools", "busybox-static", "zstd"} {
		if !slices.Contains(Packages(), name) {
			t.Errorf("packages.txt does not name %s", name)
		}
	}
	if hint := InstallHint([]string{"cpio"}); !strings.Contains(hint, "cpio") || !strings.Contains(hint, "apt-get install") {
		t.Errorf("hint %q", hint)
	}
}
