package host_test

import (
	"bytes"
	"compress/gzip"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect/host"
)

func packed(t testing.TB, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestIdentFromFS(t *testing.T) {
	guest := "processor\t: 0\nflags\t\t: fpu vme hypervisor lahf_lm\n"
	metal := "processor\t: 0\nflags\t\t: fpu vme lahf_lm\n"
	clock := "sys/devices/system/clocksource/clocksource0/available_clocksource"
	for _, c := range []struct {
		name  string
		files map[string]string
		want  host.Ident
	}{
		{"empty", nil, host.Ident{}},
		{"all", map[string]string{
			"proc/sys/kernel/osrelease":      "6.18.1\n",
			"proc/sys/kernel/arch":           "x86_64\n",
			"proc/sys/kernel/random/boot_id": "3f3c…\n",
			"proc/config.gz":                 packed(t, "# CONFIG_HZ_100 is not set\nCONFIG_HZ_1000=y\nCONFIG_HZ=1000\nCONFIG_PREEMPT_RT=y\n"),
			"etc/os-release":                 "NAME=x\nPRETTY_NAME=\"Some Linux 9\"\n",
			"proc/cpuinfo":                   metal,
			"sys/class/dmi/id/sys_vendor":    "HPE\n",
		}, host.Ident{Release: "6.18.1", Arch: "x86_64", BootID: "3f3c…", HZ: 1000, Virtualization: "none", Realtime: true, Distribution: "Some Linux 9"}},
		{"banner and boot config", map[string]string{
			"proc/version":                         "Linux version 4.18.0-348.el8.x86_64 (a@b) (gcc) #1 SMP PREEMPT_RT Tue\n",
			"boot/config-4.18.0-348.el8.x86_64":    "CONFIG_HZ=250\n",
			"usr/lib/os-release":                   "PRETTY_NAME=Fallback\n",
			"boot/config-../../etc/passwd/ignored": "CONFIG_HZ=1\n",
		}, host.Ident{Release: "4.18.0-348.el8.x86_64", Arch: "x86_64", HZ: 250, Realtime: true, Distribution: "Fallback"}},
		{"release with a path", map[string]string{"proc/sys/kernel/osrelease": "../x", "boot/x": "CONFIG_HZ=250\n"}, host.Ident{Release: "../x"}},
		{"damaged config", map[string]string{"proc/config.gz": "\x1f\x8bxx"}, host.Ident{}},
		{"odd HZ", map[string]string{"proc/config.gz": packed(t, "CONFIG_HZ=-3\nCONFIG_HZ=x\n")}, host.Ident{}},
		{"realtime file", map[string]string{"sys/kernel/realtime": "1\n"}, host.Ident{Realtime: true}},
		{"kvm by clock", map[string]string{"sys/class/dmi/id/sys_vendor": "QEMU\n", clock: "tsc kvm-clock\n", "proc/cpuinfo": guest}, host.Ident{Virtualization: "kvm"}},
		{"qemu", map[string]string{"sys/class/dmi/id/sys_vendor": "QEMU\n", "proc/cpuinfo": guest}, host.Ident{Virtualization: "qemu"}},
		{"hyper-v", map[string]string{"sys/class/dmi/id/sys_vendor": "Microsoft Corporation\n", "sys/class/dmi/id/product_name": "Virtual Machine\n"}, host.Ident{Virtualization: "microsoft"}},
		{"surface laptop", map[string]string{"sys/class/dmi/id/sys_vendor": "Microsoft Corporation\n", "proc/cpuinfo": metal}, host.Ident{Virtualization: "none"}},
		{"ec2", map[string]string{"sys/class/dmi/id/sys_vendor": "Amazon EC2\n", "sys/class/dmi/id/product_name": "c5.xlarge\n", clock: "kvm-clock"}, host.Ident{Virtualization: "amazon"}},
		{"ec2 metal", map[string]string{"sys/class/dmi/id/sys_vendor": "Amazon EC2\n", "sys/class/dmi/id/product_name": "c5.metal\n"}, host.Ident{Virtualization: "none"}},
		{"gce", map[string]string{"sys/class/dmi/id/product_name": "Google Compute Engine\n"}, host.Ident{Virtualization: "google"}},
		{"vmware", map[string]string{"sys/class/dmi/id/sys_vendor": "VMware, Inc.\n"}, host.Ident{Virtualization: "vmware"}},
		{"xen", map[string]string{"sys/hypervisor/type": "xen\n"}, host.Ident{Virtualization: "xen"}},
		{"flags alone", map[string]string{"proc/cpuinfo": metal}, host.Ident{}},
		{"some guest", map[string]string{"proc/cpuinfo": guest}, host.Ident{Virtualization: "vm-other"}},
		{"arm guest", map[string]string{"proc/device-tree/hypervisor/compatible": "linux,kvm\x00"}, host.Ident{Virtualization: "kvm"}},
		{"s390 guest", map[string]string{"proc/sysinfo": "VM00 Name:  x\nVM00 Control Program: z/VM    6.4.0\n"}, host.Ident{Virtualization: "zvm"}},
		{"arm without anything", map[string]string{"proc/cpuinfo": "Features\t: fp asimd\n"}, host.Ident{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			fsys := fstest.MapFS{}
			for name, text := range c.files {
				fsys[name] = &fstest.MapFile{Data: []byte(text)}
			}
			if diff := cmp.Diff(c.want, host.IdentFromFS(fsys)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestIdentWithoutFiles(t *testing.T) {
	if diff := cmp.Diff(host.Ident{}, host.IdentFromFS(nil)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
