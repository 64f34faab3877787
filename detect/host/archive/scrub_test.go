package archive

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/tree"
)

// planted are secrets, and the files that hold them.
var planted = map[string]string{
	"sys/class/net/eth0/address":              "52:54:00:AB:cd:01\n",
	"sys/class/net/ib0/address":               "80:00:02:08:fe:80:00:00:00:00:00:00:f4:52:14:03:00:7b:c5:a1\n",
	"sys/class/net/eth0/phys_switch_id":       "f4521403007b\n",
	"sys/class/net/enx525400abcd01/mtu":       "1500\n",
	"sys/class/infiniband/mlx/node_guid":      "f452:1403:007b:c5a0\n",
	"sys/class/dmi/id/product_serial":         "SN-4711-XYZ\n",
	"sys/class/dmi/id/product_uuid":           "4c4c4544-0043-4410-8056-b4c04f4e5332\n",
	"sys/class/dmi/id/chassis_asset_tag":      "ASSET-0815\n",
	"proc/sys/kernel/hostname":                "db17.prod.example.com\n",
	"proc/sys/kernel/domainname":              "nisdomain\n",
	"proc/sys/kernel/random/boot_id":          "3f3c8d1e-1111-4222-8333-444455556666\n",
	"proc/version":                            "Linux version 6.1.0 (joe@builder7.corp) (gcc) #1 SMP db17\n",
	"proc/cmdline":                            "BOOT_IMAGE=/vmlinuz-6.1 root=UUID=aaaabbbb isolcpus=2-3 nohz_full=2-3 password=hunter2 ip=10.1.2.3::10.1.2.1 pci=nomsi mitigations=off threadirqs\n",
	"proc/cpuinfo":                            "processor : 0\nSerial\t\t: 00000000deadbeef\nflags : fpu\n",
	"proc/net/arp":                            "10.9.8.7 0x1 0x2 52:54:00:99:88:77\n",
	"proc/net/if_inet6":                       "fe80000000000000505400fffeabcd01 02 40 20 80 eth0\n",
	"proc/1234/cmdline":                       "kubelet\x00--token=abcdef.secrettoken\x00--node-ip=10.20.30.40\x00",
	"proc/1234/environ":                       "AWS_SECRET=topsecretvalue\x00",
	"proc/net/dev":                            "Inter-|\n enx525400abcd01: 1 2 3\n",
	"etc/os-release":                          "PRETTY_NAME=\"Some Linux on db17\"\n",
	"sys/fs/notes":                            "peer 2001:db8:aaaa::42/64 via fe80::5054:ff:feab:cd01%eth0 and 172.16.5.4:80, mac 52-54-00-ab-cd-01\n",
	"sys/devices/pci0000:00/0000:00:03.0/msi": "12:34:56 0000:00:03.0 1.2.3.4.5\n",
}

// secrets must not be in a capture, in any case.
var secrets = []string{
	"52:54:00:ab", "52-54-00-ab", "525400abcd01", "f4:52:14:03", "f4521403", "f452:1403", "SN-4711", "4c4c4544", "ASSET-0815", "db17", "example.com", "nisdomain",
	"3f3c8d1e", "joe", "builder7", "aaaabbbb", "hunter2", "10.1.2", "deadbeef", "10.9.8.7", "505400fffeabcd01", "5054:ff:fe", "secrettoken", "10.20.30",
	"topsecret", "2001:db8:aaaa", "172.16.5.4", "6d:5a:56", "bVpW", "BOOT_IMAGE", "s3cr3t",
}

func plantedRecorder(t testing.TB) *Recorder {
	t.Helper()
	files := tree.New()
	for name, text := range planted {
		if err := files.WriteFile(name, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := files.Symlink("sys/class/net/usb0", "enx525400abcd01"); err != nil {
		t.Fatal(err)
	}
	h := machine(files, time.Time{})
	h.Ident = func() (host.Ident, error) {
		return host.Ident{Release: "5.4.0-1.2.3.4", BootID: "3f3c8d1e-1111-4222-8333-444455556666"}, nil
	}
	h.Links = func() ([]host.Link, error) { return []host.Link{{Name: "enx525400abcd01", Index: 7}}, nil }
	h.Processes = func() ([]host.Process, error) {
		return []host.Process{
			{PID: 1, Comm: "kubelet", Args: "/usr/bin/kubelet --token=s3cr3t"},
			{PID: 2, Comm: "irqbalance", Args: "/usr/sbin/irqbalance --banirq=5 --pid=/run/db17"},
		}, nil
	}
	h.Ethtool.RSS = func(string) (host.RSS, error) {
		return host.RSS{Table: []uint32{1}, Key: []byte{0x6d, 0x5a, 0x56, 0xda}}, nil
	}
	h.Ethtool.Rings = func(string) (host.Rings, error) {
		return host.Rings{}, &hostError{"rings of 52:54:00:ab:cd:01 on db17.prod.example.com at 10.9.8.7"}
	}
	r := NewRecorder(h)
	in := r.Host()
	for name := range planted {
		_, _ = in.ReadFile(name)
	}
	_, _ = in.ReadDir("sys/class/net")
	_ = askCalls(in, "enx525400abcd01")
	return r
}

type hostError struct{ text string }

func (e *hostError) Error() string { return e.text }

func TestScrubberLeavesNoSecret(t *testing.T) {
	var text bytes.Buffer
	if err := plantedRecorder(t).Write(&text, "seen on db17 (10.9.8.7)"); err != nil {
		t.Fatal(err)
	}
	lower := strings.ToLower(text.String())
	for _, secret := range secrets {
		if at := strings.Index(lower, strings.ToLower(secret)); at >= 0 {
			t.Errorf("%q is in the capture: …%q…", secret, lower[max(0, at-60):min(len(lower), at+60)])
		}
	}
	// Whatever looks like an address must be a stand-in.
	for form, allowed := range map[string]*regexp.Regexp{
		`\b[0-9a-f]{2}(?::[0-9a-f]{2}){5,}\b`:  regexp.MustCompile(`^02:00:00:`),
		`\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}`: regexp.MustCompile(`^(192\.0\.2|198\.51\.100|203\.0\.113)\.|^1\.2\.3\.4|^1\.0\.0\.1|^0-1\.2`),
	} {
		for _, found := range regexp.MustCompile(form).FindAllString(lower, -1) {
			if !allowed.MatchString(found) {
				t.Errorf("%q looks like an address", found)
			}
		}
	}
}

func TestScrubberKeepsWhatMatters(t *testing.T) {
	c := rewrite(t, plantedRecorder(t))
	h := c.Samples[0]
	for name, want := range map[string]string{
		"sys/devices/pci0000:00/0000:00:03.0/msi": "12:34:56 0000:00:03.0 1.2.3.4.5\n",
		"proc/cmdline":                   "isolcpus=2-3 nohz_full=2-3 pci=nomsi mitigations=off threadirqs\n",
		"proc/sys/kernel/random/boot_id": "00000000-0000-4000-8000-000000000001\n",
		"proc/cpuinfo":                   "processor : 0\nSerial\t\t: scrubbed\nflags : fpu\n",
		"proc/version":                   "Linux version 6.1.0 (builder@host) (gcc) #1 SMP host\n",
		"proc/1234/cmdline":              "kubelet",
		"sys/class/dmi/id/product_uuid":  "scrubbed\n",
	} {
		got, err := h.ReadFile(name)
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	id, err := h.Ident()
	if err != nil || id.BootID != "00000000-0000-4000-8000-000000000001" || id.Release != "5.4.0-1.2.3.4" {
		t.Errorf("ident %+v, %v", id, err)
	}
	links, err := h.Links()
	if err != nil || len(links) != 1 || !strings.HasPrefix(links[0].Name, "enx02") {
		t.Fatalf("links %+v, %v", links, err)
	}
	// The renamed device is one device everywhere.
	renamed := links[0].Name
	if mtu, err := h.ReadFile("sys/class/net/" + renamed + "/mtu"); err != nil || string(mtu) != "1500\n" {
		t.Errorf("mtu of %s: %q, %v", renamed, mtu, err)
	}
	if target, err := h.ReadLink("sys/class/net/usb0"); err != nil || target != renamed {
		t.Errorf("link to %q, %v; want %s", target, err, renamed)
	}
	if dev, err := h.ReadFile("proc/net/dev"); err != nil || !strings.Contains(string(dev), renamed+": 1 2 3") {
		t.Errorf("proc/net/dev %q, %v", dev, err)
	}
	if _, err := h.Ethtool.Stats(renamed); err != nil {
		t.Errorf("stats of %s: %v", renamed, err)
	}
	processes, err := h.Processes()
	if err != nil || processes[0].Args != "/usr/bin/kubelet" || processes[1].Args != "/usr/sbin/irqbalance --banirq=5 --pid=/run/host" {
		t.Errorf("processes %+v, %v", processes, err)
	}
}

func TestScrubText(t *testing.T) {
	for in, want := range map[string]string{
		"0000:00:03.0": "0000:00:03.0", "12:34:56": "12:34:56", "00:00:00:00:00:00": "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff": "ff:ff:ff:ff:ff:ff",
		"127.0.0.1": "127.0.0.1", "0.0.0.0": "0.0.0.0", "::1": "::1", "::": "::", "1.2.3.4": "192.0.2.1", "1.2.3.4/24": "192.0.2.1/24", "1.2.3.400": "1.2.3.400",
		"a 1.2.3.4:80 b": "a 192.0.2.1:80 b", "fe80::2": "2001:db8::1", "[fe80::2]:80": "[2001:db8::1]:80", "2a00:1::/32": "2001:db8::1/32", "fe80::2%eth0": "2001:db8::1%eth0",
		"52-54-00-ab-cd-01": "02-00-00-00-00-01", "eth0:52:54:00:ab:cd:01,": "eth0:02:00:00:00:00:01,", "00,0000000f": "00,0000000f", "0-3,8-11": "0-3,8-11",
		"PCI-MSIX-0000:00:03.0": "PCI-MSIX-0000:00:03.0", "PCI-MSI 524289-edge virtio0-input.0": "PCI-MSI 524289-edge virtio0-input.0", "6.1.0-13-amd64": "6.1.0-13-amd64", "": "",
	} {
		if got := string(newScrubber().text([]byte(in))); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

func FuzzScrub(f *testing.F) {
	for _, text := range planted {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := newScrubber()
		once := bytes.Clone(s.text(data))
		if bytes.Count(once, []byte("\n")) != bytes.Count(data, []byte("\n")) {
			t.Errorf("%q became %q", data, once)
		}
	})
}

func BenchmarkScrubInterrupts(b *testing.B) {
	data := bytes.Repeat([]byte("  33:    1234567          0          0          7  PCI-MSI 524289-edge      eth0-TxRx-0\n"), 10000)
	s := newScrubber()
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		s.text(data)
	}
}
