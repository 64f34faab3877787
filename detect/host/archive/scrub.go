package archive

import (
	"bytes"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/napitune/napitune/detect/host"
)

// scrubber removes what identifies a machine or its network. Equal secrets get
// equal stand-ins, so that what belongs together still does. PCI addresses,
// times and versions stay.
type scrubber struct {
	standIns  map[string]string
	hostnames []*regexp.Regexp
	bootIDs   map[string]bool
}

func newScrubber() *scrubber {
	return &scrubber{standIns: map[string]string{}, bootIDs: map[string]bool{}}
}

// learn takes the names of the machine from its own files.
func (s *scrubber) learn(h *host.Host) {
	for _, name := range []string{"proc/sys/kernel/hostname", "etc/hostname"} {
		data, err := h.ReadFile(name)
		name := strings.TrimSpace(string(data))
		if err != nil || name == "" || name == "localhost" || name == "(none)" {
			continue
		}
		short, _, _ := strings.Cut(name, ".")
		s.hostnames = append(s.hostnames, wholeWord(name), wholeWord(short))
	}
	if data, err := h.ReadFile(bootIDFile); err == nil {
		s.bootIDs[strings.TrimSpace(string(data))] = true
	}
}

func wholeWord(text string) *regexp.Regexp {
	return regexp.MustCompile(`(?i)\b` + regexp.QuoteMeta(text) + `\b`)
}

const bootIDFile = "proc/sys/kernel/random/boot_id"

// standIn returns the replacement of one secret: make is given how many of its
// class came before.
func (s *scrubber) standIn(class, secret string, replace func(int) string) string {
	key := class + " " + secret
	if known, ok := s.standIns[key]; ok {
		return known
	}
	n := 1
	for k := range s.standIns {
		if strings.HasPrefix(k, class+" ") {
			n++
		}
	}
	s.standIns[key] = replace(n)
	return s.standIns[key]
}

// Forms of secrets inside a token.
var (
	// macForm: six octets of Ethernet up to twenty of InfiniBand. A PCI address
	// (0000:00:03.0) has fewer groups.
	macForm = regexp.MustCompile(`[0-9a-fA-F]{2}(?:[:-][0-9a-fA-F]{2}){5,31}`)
	// enxForm is an interface named by its MAC address (systemd.net-naming-scheme).
	enxForm = regexp.MustCompile(`\b(?:en|wl|ww)x[0-9a-f]{12}\b`)
)

// tokenByte are the bytes that addresses and names are made of.
var tokenByte = func() (table [256]bool) {
	for c := range table {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
			table[c] = true
		}
	}
	for _, c := range []byte(":.-%_") {
		table[c] = true
	}
	return table
}()

// text scrubs addresses. It returns data itself if there is nothing to scrub.
func (s *scrubber) text(data []byte) []byte {
	var out []byte
	kept := 0 // data up to here is in out
	for at := 0; at < len(data); {
		if !tokenByte[data[at]] {
			at++
			continue
		}
		start, marks, letters := at, 0, false
		for ; at < len(data) && tokenByte[data[at]]; at++ {
			switch c := data[at]; {
			case c == ':' || c == '.' || c == '-':
				marks++
			case c == 'x':
				letters = true
			}
		}
		if marks < 2 && !letters {
			continue
		}
		token := string(data[start:at])
		if clean := s.token(token); clean != token {
			out = append(append(out, data[kept:start]...), clean...)
			kept = at
		}
	}
	if kept == 0 {
		return data
	}
	return append(out, data[kept:]...)
}

// token scrubs one run of address bytes.
func (s *scrubber) token(token string) string {
	if s.bootIDs[token] {
		return s.bootID(token)
	}
	token = enxForm.ReplaceAllStringFunc(token, func(name string) string {
		return name[:3] + s.standIn("mac", name[3:], func(n int) string { return fmt.Sprintf("02000000%04x", n) })
	})
	if clean := macForm.ReplaceAllStringFunc(token, s.mac); clean != token {
		return clean
	}
	return s.address(token)
}

func (s *scrubber) mac(mac string) string {
	plain := strings.ToLower(strings.NewReplacer(":", "", "-", "").Replace(mac))
	if strings.Trim(plain, "0") == "" || strings.Trim(plain, "f") == "" {
		return mac
	}
	hex := s.standIn("mac", plain, func(n int) string {
		return "02" + strings.Repeat("0", len(plain)-6) + fmt.Sprintf("%04x", n)
	})
	var b strings.Builder
	for i := 0; i < len(hex); i += 2 {
		if i > 0 {
			b.WriteByte(mac[2])
		}
		b.WriteString(hex[i : i+2])
	}
	return b.String()
}

// ipv4Form finds candidates inside a token, such as "10.0.0.1:80".
var ipv4Form = regexp.MustCompile(`[0-9]+(?:\.[0-9]+)+`)

// address scrubs IPv4 addresses inside a token, and the token if it is an IPv6
// address as a whole, perhaps followed by a zone or punctuation.
func (s *scrubber) address(token string) string {
	plain, zone, zoned := strings.Cut(token, "%")
	if zoned {
		zone = "%" + zone
	}
	for _, candidate := range []string{plain, strings.TrimRight(plain, ".:-")} {
		addr, err := netip.ParseAddr(candidate)
		if err == nil && addr.Is6() {
			return s.ipv6(candidate, addr) + plain[len(candidate):] + zone
		}
	}
	return ipv4Form.ReplaceAllStringFunc(token, s.ipv4)
}

// ipv6 uses the block for documentation of RFC 3849.
func (s *scrubber) ipv6(text string, addr netip.Addr) string {
	if addr.IsUnspecified() || addr.IsLoopback() {
		return text
	}
	return s.standIn("ipv6", addr.String(), func(n int) string { return fmt.Sprintf("2001:db8::%x", n) })
}

// ipv4 uses the three blocks for documentation of RFC 5737. A number of five
// parts is a version.
func (s *scrubber) ipv4(text string) string {
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.IsUnspecified() || addr.IsLoopback() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return text
	}
	blocks := [...]string{"192.0.2", "198.51.100", "203.0.113"}
	return s.standIn("ipv4", text, func(n int) string {
		return fmt.Sprintf("%s.%d", blocks[(n-1)/254%len(blocks)], (n-1)%254+1)
	})
}

func (s *scrubber) bootID(id string) string {
	if id == "" {
		return ""
	}
	s.bootIDs[id] = true
	return s.standIn("boot", id, func(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012x", n) })
}

// words scrubs text written for people: addresses and the names of the machine.
func (s *scrubber) words(text string) string {
	clean := string(s.text([]byte(text)))
	for _, name := range s.hostnames {
		clean = name.ReplaceAllLiteralString(clean, "host")
	}
	return clean
}

// name scrubs a path or a device name.
func (s *scrubber) name(name string) string { return string(s.text([]byte(name))) }

// secretFile are the last parts of paths whose content identifies a machine.
var secretFile = regexp.MustCompile(`(?i)serial|uuid|asset_tag|wwid|wwn|^vpd|unique_id|machine-id|hostid|phys_switch_id|phys_port_id|node_guid|sys_image_guid|node_desc|perm_?addr|^gids?$`)

// hostNameFile are the last parts of paths that hold the name of the machine.
var hostNameFile = regexp.MustCompile(`^(hostname|domainname|nodename)$`)

// droppedFile are paths that are full of addresses in forms of their own, or of
// somebody's environment; nothing of them is kept.
var droppedFile = regexp.MustCompile(`^proc/(?:[^/]+/)*net/(?:arp|route|rt_cache|fib_trie|ipv6_route|if_inet6|tcp6?|udp6?|udplite6?|raw6?|icmp6?|igmp6?|mcfilter6?|dev_mcast|packet|unix|netlink|nf_conntrack|ip_conntrack)$` +
	`|^proc/(?:\d+|self|thread-self)/(?:task/\d+/)?(?:environ|auxv|maps|smaps|mounts|mountinfo|mountstats)$`)

// processCmdline is the command line of a process.
var processCmdline = regexp.MustCompile(`^proc/(?:\d+|self|thread-self)/(?:task/\d+/)?cmdline$`)

// builder is who compiled the kernel, in proc/version.
var builder = regexp.MustCompile(`\([^()\s]*@[^()\s]*\)`)

// serialLine is the serial number that /proc/cpuinfo of ARM boards tells.
var serialLine = regexp.MustCompile(`(?mi)^(serial(?: number)?\s*:).*$`)

const scrubbedText = "scrubbed\n"

// file scrubs the content of a file; keep is false if nothing of it may be kept.
func (s *scrubber) file(name string, data []byte) (clean []byte, keep bool) {
	base := path.Base(name)
	switch {
	case droppedFile.MatchString(name):
		return nil, false
	case name == "proc/cmdline":
		return []byte(kernelCmdline(string(s.text(data)))), true
	case name == bootIDFile:
		return []byte(s.bootID(strings.TrimSpace(string(data))) + "\n"), true
	case name == "proc/version":
		return []byte(s.words(builder.ReplaceAllString(string(data), "(builder@host)"))), true
	case name == "proc/cpuinfo":
		return s.text(serialLine.ReplaceAll(data, []byte("$1 scrubbed"))), true
	case name == "proc/config.gz", strings.HasPrefix(name, "boot/config-"), strings.HasPrefix(name, "proc/sys/kernel/osrelease"):
		return data, true
	case hostNameFile.MatchString(base):
		return []byte("host\n"), true
	case secretFile.MatchString(base):
		return []byte(scrubbedText), true
	case processCmdline.MatchString(name):
		words := strings.Split(strings.TrimRight(string(data), "\x00"), "\x00")
		return []byte(s.arguments(path.Base(words[0]), words)), true
	case strings.HasPrefix(name, "proc/"), strings.HasPrefix(name, "sys/"):
		return s.text(data), true
	}
	return []byte(s.words(string(data))), true
}

// tuningWords are the options of the kernel command line that say how the
// machine treats interrupts, CPUs and packets
// (Documentation/admin-guide/kernel-parameters.txt).
var tuningWords = []string{
	"isolcpus", "nohz_full", "nohz", "rcu_nocbs", "rcu_nocb_poll", "irqaffinity", "threadirqs", "thread_backlog_napi",
	"nosmt", "nosmt=force", "smt", "maxcpus", "nr_cpus", "possible_cpus", "kthread_cpus", "mitigations", "numa", "numa_balancing",
	"intel_iommu", "amd_iommu", "iommu", "iommu.passthrough", "iommu.strict", "pci", "noapic", "nolapic", "acpi_irq_balance", "acpi_irq_nobalance",
	"idle", "processor.max_cstate", "intel_idle.max_cstate", "cpuidle.off", "intel_pstate", "amd_pstate", "preempt", "skew_tick",
	"clocksource", "tsc", "nox2apic", "default_smp_affinity", "systemd.cpu_affinity",
}

// kernelCmdline keeps the tuning words of a kernel command line.
func kernelCmdline(text string) string {
	var kept []string
	for word := range strings.FieldsSeq(text) {
		key, _, _ := strings.Cut(word, "=")
		if slices.Contains(tuningWords, key) || strings.HasPrefix(key, "virtio_net.") {
			kept = append(kept, word)
		}
	}
	return strings.Join(kept, " ") + "\n"
}

// telling are the programs whose arguments say how they tune the machine and
// hold no secrets.
var telling = []string{"irqbalance", "tuned", "perftune.py"}

// arguments keeps the program, and the rest only of those that are telling.
func (s *scrubber) arguments(comm string, words []string) string {
	if len(words) == 0 {
		return ""
	}
	if !slices.Contains(telling, comm) {
		words = words[:1]
	}
	return s.words(strings.Join(words, " "))
}

// comment scrubs the free text at the head of a capture and keeps it from
// being taken for members.
func (s *scrubber) comment(text string) []byte {
	var b bytes.Buffer
	for line := range strings.Lines(s.words(text)) {
		if strings.HasPrefix(line, "-- ") {
			b.WriteByte(' ')
		}
		b.WriteString(line)
	}
	if b.Len() > 0 && !bytes.HasSuffix(b.Bytes(), []byte("\n")) {
		b.WriteByte('\n')
	}
	return b.Bytes()
}
