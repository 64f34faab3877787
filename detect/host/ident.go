package host

import (
	"bytes"
	"compress/gzip"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// maxConfig bounds an unpacked kernel configuration in bytes; real ones have
// about 300 kB.
const maxConfig = 16 << 20

// IdentFromFS identifies the machine from its files alone: fsys is rooted at
// "/". What the files do not tell stays zero. It reads
// proc/sys/kernel/{osrelease,arch}, proc/sys/kernel/random/boot_id,
// proc/version, proc/cpuinfo, the kernel configuration (proc/config.gz or
// boot/config-RELEASE), sys/kernel/realtime, etc/os-release and what
// virtualisation leaves behind.
func IdentFromFS(fsys fs.FS) Ident {
	f := identFiles{fsys}
	version := f.text("proc/version")
	id := Ident{
		Release:        f.text("proc/sys/kernel/osrelease"),
		Arch:           f.text("proc/sys/kernel/arch"),
		BootID:         f.text("proc/sys/kernel/random/boot_id"),
		Virtualization: f.virtualization(),
		Distribution:   f.distribution(),
	}
	if id.Release == "" {
		id.Release = releaseOf(version)
	}
	if id.Arch == "" {
		id.Arch = archOf(id.Release)
	}
	config := f.config(id.Release)
	id.HZ = config.hz
	id.Realtime = config.realtime || f.text("sys/kernel/realtime") == "1" ||
		strings.Contains(version, " PREEMPT_RT ") || strings.Contains(version, " PREEMPT RT ")
	return id
}

type identFiles struct{ fsys fs.FS }

// text is the trimmed content of a file, "" if it cannot be read.
func (f identFiles) text(name string) string {
	if f.fsys == nil {
		return ""
	}
	data, err := fs.ReadFile(f.fsys, name)
	if err != nil {
		return ""
	}
	return strings.Trim(string(data), " \t\r\n\x00")
}

// releaseOf finds the release in the banner "Linux version RELEASE (builder…".
func releaseOf(version string) string {
	fields := strings.Fields(version)
	if len(fields) < 3 || fields[0] != "Linux" || fields[1] != "version" {
		return ""
	}
	return fields[2]
}

// archSuffixes are the endings by which distributions tell the machine in the
// release: uname -m on the right.
var archSuffixes = [...]struct{ suffix, arch string }{
	{".x86_64", "x86_64"}, {"-amd64", "x86_64"}, {".aarch64", "aarch64"}, {"-arm64", "aarch64"},
	{".ppc64le", "ppc64le"}, {".s390x", "s390x"}, {"-s390x", "s390x"}, {".riscv64", "riscv64"},
}

func archOf(release string) string {
	for _, known := range archSuffixes {
		if strings.HasSuffix(release, known.suffix) {
			return known.arch
		}
	}
	return ""
}

type kernelConfig struct {
	hz       int
	realtime bool
}

func (f identFiles) config(release string) kernelConfig {
	if f.fsys == nil {
		return kernelConfig{}
	}
	if packed, err := fs.ReadFile(f.fsys, "proc/config.gz"); err == nil {
		if text, ok := gunzip(packed); ok {
			return parseConfig(text)
		}
	}
	name := "boot/config-" + release
	if release == "" || strings.Contains(release, "/") || !fs.ValidPath(name) {
		return kernelConfig{}
	}
	text, err := fs.ReadFile(f.fsys, name)
	if err != nil {
		return kernelConfig{}
	}
	return parseConfig(text)
}

func gunzip(packed []byte) ([]byte, bool) {
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, false
	}
	text, err := io.ReadAll(io.LimitReader(r, maxConfig))
	return text, err == nil
}

func parseConfig(text []byte) kernelConfig {
	var c kernelConfig
	for line := range bytes.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(string(line)), "=")
		switch key {
		case "CONFIG_HZ":
			if hz, err := strconv.Atoi(value); err == nil && hz > 0 {
				c.hz = hz
			}
		case "CONFIG_PREEMPT_RT", "CONFIG_PREEMPT_RT_FULL":
			c.realtime = value == "y"
		}
	}
	return c
}

func (f identFiles) distribution() string {
	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		for line := range strings.Lines(f.text(name)) {
			value, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME=")
			if ok {
				return strings.Trim(value, `"'`)
			}
		}
	}
	return ""
}

// dmiProducts maps what firmware says of the machine to the words of
// systemd-detect-virt (src/basic/virt.c of systemd).
var dmiProducts = [...]struct{ text, virtualization string }{
	{"Amazon EC2", "amazon"}, {"Google Compute Engine", "google"}, {"VirtualBox", "oracle"}, {"innotek GmbH", "oracle"},
	{"VMware", "vmware"}, {"VMW", "vmware"}, {"Xen", "xen"}, {"Parallels", "parallels"}, {"BHYVE", "bhyve"},
	{"OpenStack", "kvm"}, {"KVM", "kvm"}, {"QEMU", "qemu"}, {"Bochs", "bochs"},
}

// virtualization answers in the words of systemd-detect-virt, "" if the files
// do not tell. It has no CPUID, so a guest that only shows the CPU flag is
// "vm-other". "none" needs firmware that names a machine and no sign of a guest.
func (f identFiles) virtualization() string {
	if f.text("sys/hypervisor/type") == "xen" {
		return "xen"
	}
	cpuinfo := f.text("proc/cpuinfo")
	vendor, product := f.text("sys/class/dmi/id/sys_vendor"), f.text("sys/class/dmi/id/product_name")
	if strings.HasPrefix(vendor, "Amazon EC2") && strings.Contains(product, ".metal") {
		return "none"
	}
	word := dmiWord(vendor, product)
	if word == "qemu" || word == "" {
		word = firstWord(f.clockSource(), f.deviceTree(), f.sysinfo(cpuinfo), word)
	}
	switch {
	case word != "":
		return word
	case hypervisorFlag(cpuinfo):
		return "vm-other"
	case vendor != "" || product != "":
		return "none"
	}
	return ""
}

func firstWord(words ...string) string {
	for _, word := range words {
		if word != "" {
			return word
		}
	}
	return ""
}

func dmiWord(vendor, product string) string {
	if strings.HasPrefix(vendor, "Microsoft") && product == "Virtual Machine" {
		return "microsoft"
	}
	for _, known := range dmiProducts {
		if strings.HasPrefix(vendor, known.text) || strings.HasPrefix(product, known.text) {
			return known.virtualization
		}
	}
	return ""
}

// hypervisorFlag reports whether an x86 CPU says that it is virtual. Silence
// proves nothing: VirtualBox hides the flag.
func hypervisorFlag(cpuinfo string) bool {
	for line := range strings.Lines(cpuinfo) {
		key, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(key) == "flags" {
			return slices.Contains(strings.Fields(value), "hypervisor")
		}
	}
	return false
}

// clockSource tells the hypervisor by the clock it offers
// (arch/x86/kernel/kvmclock.c, drivers/clocksource/hyperv_timer.c, arch/x86/xen/time.c).
func (f identFiles) clockSource() string {
	for _, name := range strings.Fields(f.text("sys/devices/system/clocksource/clocksource0/available_clocksource")) {
		switch {
		case name == "kvm-clock":
			return "kvm"
		case strings.HasPrefix(name, "hyperv_clocksource"):
			return "microsoft"
		case name == "xen":
			return "xen"
		}
	}
	return ""
}

func (f identFiles) deviceTree() string {
	switch compatible := f.text("proc/device-tree/hypervisor/compatible"); {
	case strings.Contains(compatible, "linux,kvm"):
		return "kvm"
	case strings.Contains(compatible, "xen"):
		return "xen"
	}
	return ""
}

// sysinfo covers s390 (arch/s390/kernel/sysinfo.c) and user mode Linux.
func (f identFiles) sysinfo(cpuinfo string) string {
	if strings.Contains(cpuinfo, "User Mode Linux") {
		return "uml"
	}
	for line := range strings.Lines(f.text("proc/sysinfo")) {
		key, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(key) != "VM00 Control Program" {
			continue
		}
		if strings.Contains(value, "z/VM") {
			return "zvm"
		}
		return "kvm"
	}
	return ""
}
