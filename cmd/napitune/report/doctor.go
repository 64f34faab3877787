package report

import (
	"io"
	"strings"

	"github.com/napitune/napitune/detect"
)

// Doctor is the answer of "napitune doctor": what napitune can see here.
type Doctor struct {
	Schema  string `json:"schema"`
	Version string `json:"version"`
	Host    Host   `json:"host"`
	// Distribution and Realtime complete the identity of the kernel.
	Distribution string       `json:"distribution"`
	Realtime     bool         `json:"realtime"`
	HZ           int          `json:"hz"` // CONFIG_HZ; 0 = unknown
	Privileges   Privileges   `json:"privileges"`
	Sources      []Source     `json:"sources"`
	Probes       []Probe      `json:"probes"`
	Daemons      []string     `json:"daemons"` // running programs that write the same settings
	Gaps         []detect.Gap `json:"gaps"`
}

// Privileges are those of the process that reads the host.
type Privileges struct {
	Known bool `json:"known"`
	UID   int  `json:"uid"` // -1 = unknown
	// Capabilities lists those that matter here and are effective, Missing the others.
	Capabilities []string `json:"capabilities"`
	Missing      []string `json:"missing"`
}

// Source is one place that napitune reads.
type Source struct {
	Name string `json:"name"`
	// Status is "read", "absent" (certainly not there), "denied" or "unread".
	Status string `json:"status"`
	Detail string `json:"detail"` // what was found, or why not
	// Remedy says what would make it readable; "" if nothing would.
	Remedy string `json:"remedy"`
}

// Probe is the state of one in-kernel probe.
type Probe struct {
	Name   string `json:"name"`
	State  string `json:"state"` // one of the constants below
	Reason string `json:"reason"`
}

// States of a probe.
const (
	ProbeAttached    = "attached"
	ProbeTimed       = "timed"       // measured once, by a call of our own
	ProbeUnsupported = "unsupported" // the kernel has not got what it needs
	ProbeDenied      = "denied"      // a capability is missing
	ProbeFailed      = "failed"      // the verifier or the attachment refused it
	ProbeOff         = "off"         // not asked for, or not in this build
)

// Statuses of a source.
const (
	SourceRead   = "read"
	SourceAbsent = "absent"
	SourceDenied = "denied"
	SourceUnread = "unread"
)

// NewDoctor examines a snapshot: each source with what it gave, and each gap
// with what would close it.
func NewDoctor(s *detect.Snapshot, version string, privileges Privileges, probes []Probe) Doctor {
	d := Doctor{
		Schema: SchemaDoctor, Version: version, Host: newHost(s),
		Distribution: s.Ident.Distribution, Realtime: s.Ident.Realtime, HZ: s.Ident.HZ,
		Privileges: privileges, Sources: sources(s), Probes: present(probes), Daemons: []string{},
		Gaps: present(s.Gaps),
	}
	d.Privileges.Capabilities = present(d.Privileges.Capabilities)
	d.Privileges.Missing = present(d.Privileges.Missing)
	seen := map[string]bool{}
	for _, process := range s.Processes {
		if process.Args != "" && !seen[process.Comm] {
			seen[process.Comm] = true
			d.Daemons = append(d.Daemons, process.Comm)
		}
	}
	return d
}

// sources asks each part of a snapshot what it holds. The names are those that
// gaps use, so that an empty part finds its reason.
func sources(s *detect.Snapshot) []Source {
	var out []Source
	add := func(name string, n int, noun string) { out = append(out, newSource(s, name, n, noun)) }
	add("proc/interrupts", len(s.IRQs.Rows), "interrupt")
	add("proc/irq", countIRQs(s, func(i *detect.IRQ) bool { return i.HasSMP }), "affinity mask")
	add("proc/softirqs", len(s.Softirqs.Counts), "vector")
	add("proc/net/softnet_stat", len(s.Softnet.Rows), "CPU")
	add("proc/stat", len(s.CPUTimes.CPUs), "CPU")
	add("proc/net/snmp", len(s.Protocols), "counter")
	add("proc/cmdline", len(s.Cmdline), "parameter")
	cpus, nodes := 0, 0
	if s.Topo != nil {
		cpus, nodes = len(s.Topo.CPUs), len(s.Topo.Nodes)
	}
	add("sys/devices/system/cpu", cpus, "CPU")
	add("sys/devices/system/node", nodes, "node")
	add("sys/class/net", len(s.Devices), "device")
	add("rtnetlink", len(s.Links), "link")
	add("processes", len(s.Processes), "task")
	add("netdev", countNAPIs(s), "NAPI")
	add("ethtool -i", countDevices(s, func(d *detect.Device) bool { return d.Driver != "" }), "device")
	add("ethtool -l", countDevices(s, func(d *detect.Device) bool { return d.Channels != nil }), "device")
	add("ethtool -g", countDevices(s, func(d *detect.Device) bool { return d.Rings != nil }), "device")
	add("ethtool -c", countDevices(s, func(d *detect.Device) bool { return d.Coalesce != nil }), "device")
	add("ethtool -k", countDevices(s, func(d *detect.Device) bool { return d.Features != nil }), "device")
	add("ethtool -x", countDevices(s, func(d *detect.Device) bool { return d.RSS != nil }), "device")
	add("ethtool -S", countDevices(s, func(d *detect.Device) bool { return len(d.Stats) > 0 }), "device")
	return out
}

func countIRQs(s *detect.Snapshot, match func(*detect.IRQ) bool) int {
	n := 0
	for i := range s.IRQs.Rows {
		if match(&s.IRQs.Rows[i]) {
			n++
		}
	}
	return n
}

func countDevices(s *detect.Snapshot, match func(*detect.Device) bool) int {
	n := 0
	for _, d := range s.Devices {
		if match(d) {
			n++
		}
	}
	return n
}

// countNAPIs counts the queues whose NAPI the kernel names; the driver need
// not name the interrupt as well.
func countNAPIs(s *detect.Snapshot) int {
	n := 0
	for _, d := range s.Devices {
		for _, q := range d.Queues {
			if q.NAPI >= 0 {
				n++
			}
		}
	}
	return n
}

func newSource(s *detect.Snapshot, name string, n int, noun string) Source {
	if n > 0 {
		return Source{Name: name, Status: SourceRead, Detail: plural(n, noun)}
	}
	src := Source{Name: name, Status: SourceAbsent, Detail: "nothing there"}
	if name == "proc/interrupts" && s.IRQs.Masked {
		src.Detail = "empty: hidden by the container runtime"
		src.Remedy = "run on the host, not in the container"
		return src
	}
	for _, g := range s.Gaps {
		if !strings.HasPrefix(g.Source, name) {
			continue
		}
		src.Status, src.Detail = SourceUnread, g.Reason
		if isDenied(g.Reason) {
			src.Status, src.Remedy = SourceDenied, remedy(name)
		}
		return src
	}
	if neverEmpty[name] {
		src.Status, src.Detail = SourceUnread, "not told"
	}
	return src
}

// neverEmpty names the sources that have something to say on every Linux: a
// CPU and the loopback device are always there.
var neverEmpty = map[string]bool{
	"proc/interrupts": true, "proc/softirqs": true, "proc/net/softnet_stat": true, "proc/stat": true,
	"sys/devices/system/cpu": true, "sys/class/net": true, "rtnetlink": true,
}

// remedy names the capability that opens a source (include/uapi/linux/capability.h):
// ethtool and netlink ask for CAP_NET_ADMIN (net/ethtool/ioctl.c), files for
// what overrides their mode.
func remedy(source string) string {
	if strings.HasPrefix(source, "ethtool") || source == "netdev" || source == "rtnetlink" {
		return "run as root or with CAP_NET_ADMIN"
	}
	return "run as root or with CAP_DAC_READ_SEARCH"
}

// Text writes the examination for people.
func (d Doctor) Text(w io.Writer, style Style) error {
	p := &page{w: w, style: style}
	p.doctorFacts(d)
	p.blank()
	t := table{heads: []string{"SOURCE", "STATUS", "FOUND"}, limit: 40}
	for _, s := range d.Sources {
		text := s.Detail
		if s.Remedy != "" {
			text += "; " + s.Remedy
		}
		t.add(s.Name, s.Status, text)
	}
	t.render(p, 0)
	p.doctorProbes(d.Probes)
	p.gaps(d.Gaps)
	return p.err
}

func (p *page) doctorFacts(d Doctor) {
	const indent = 16
	p.hang("napitune", plain, indent, d.Version)
	p.hang("kernel", plain, indent, strings.Join(kernelFacts(d), ", "))
	if d.Distribution != "" {
		p.hang("distribution", plain, indent, d.Distribution)
	}
	virtualization := d.Host.Virtualization
	if virtualization == "" {
		virtualization = "unknown"
	}
	p.hang("virtualization", plain, indent, virtualization)
	p.hang("CPUs", plain, indent, plural(d.Host.CPUs, "CPU")+" online, "+plural(d.Host.Nodes, "NUMA node"))
	p.hang("privileges", plain, indent, privilegeText(d.Privileges))
	if len(d.Daemons) > 0 {
		p.hang("other tuners", plain, indent, strings.Join(d.Daemons, ", "))
	}
}

func kernelFacts(d Doctor) []string {
	facts := []string{"release unknown"}
	if d.Host.Release != "" {
		facts = []string{strings.TrimSpace(d.Host.Release + " " + d.Host.Arch)}
	}
	if d.HZ > 0 {
		facts = append(facts, "HZ "+count(uint64(d.HZ)))
	}
	if d.Realtime {
		facts = append(facts, "PREEMPT_RT")
	}
	return facts
}

func privilegeText(v Privileges) string {
	if !v.Known {
		return "not those of this process: a captured host"
	}
	text := "ordinary user"
	if v.UID == 0 {
		text = "root"
	}
	if len(v.Capabilities) > 0 {
		text += ", has " + strings.Join(v.Capabilities, " ")
	}
	if len(v.Missing) > 0 {
		text += ", lacks " + strings.Join(v.Missing, " ")
	}
	return text
}

func (p *page) doctorProbes(probes []Probe) {
	p.blank()
	if len(probes) == 0 {
		p.line("in-kernel probes: none in use")
		return
	}
	t := table{heads: []string{"PROBE", "STATE", "REASON"}, limit: 40}
	for _, each := range probes {
		t.add(each.Name, each.State, each.Reason)
	}
	t.render(p, 0)
}
