package detect

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/topo"
)

// Collect reads one machine. What could not be read is in Snapshot.Gaps with
// the reason; the error says that nothing at all was readable, so that there
// is nothing to judge.
func Collect(h *host.Host) (*Snapshot, error) {
	if h == nil {
		return nil, errors.New("collect: no host given")
	}
	c := collector{h: memoised(h), s: &Snapshot{}}
	if h.Now != nil {
		c.s.Taken = h.Now()
	}
	// Counters come first and close together, so that they tell of the same
	// moment; slow questions to drivers follow.
	c.counters()
	c.identity()
	c.forwarding()
	c.topology()
	c.softnet()
	c.devices()
	c.queues()
	c.vectors()
	c.knobs()
	c.contested()
	if c.empty() {
		return nil, fmt.Errorf("collect: nothing is readable: %s", c.firstGap())
	}
	slices.SortStableFunc(c.s.Gaps, func(a, b Gap) int { return cmp.Compare(a.Source, b.Source) })
	return c.s, nil
}

type collector struct {
	h *host.Host
	s *Snapshot
	// softnetData is kept until the online CPUs are known.
	softnetData []byte
	// details holds what is known of devices beyond the Snapshot.
	details map[*Device]*detail
	// authoritative says that the list of devices is complete; sysfs that it
	// came with bus addresses.
	authoritative, sysfs bool
}

func (c *collector) gap(source string, err error) {
	g := Gap{Source: source, Reason: reason(err)}
	if !slices.Contains(c.s.Gaps, g) {
		c.s.Gaps = append(c.s.Gaps, g)
	}
}

func (c *collector) gaps(source string, errs []error) {
	const most = 5
	for i, err := range errs {
		if i == most {
			c.gap(source, fmt.Errorf("%d more damaged lines", len(errs)-most))
			return
		}
		c.gap(source, err)
	}
}

// read reads a file whose absence is a gap.
func (c *collector) read(name string) ([]byte, bool) {
	data, err := c.h.ReadFile(name)
	if err != nil {
		c.gap(name, err)
		return nil, false
	}
	return data, true
}

// text reads a small file whose absence means nothing. Refusals of permission
// are gaps.
func (c *collector) text(name string) (string, bool) {
	data, err := c.h.ReadFile(name)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			c.gap(name, err)
		}
		return "", false
	}
	return strings.Trim(string(data), " \t\n\x00"), true
}

func (c *collector) counters() {
	s := c.s
	if data, ok := c.read("proc/interrupts"); ok {
		var errs []error
		s.IRQs, errs = parseInterrupts(data)
		c.gaps("proc/interrupts", errs)
		if s.IRQs.Masked {
			c.gap("proc/interrupts", errors.New("the file is empty: a container runtime hides it"))
		}
	}
	if data, ok := c.read("proc/softirqs"); ok {
		var errs []error
		s.Softirqs, errs = parseSoftirqs(data)
		c.gaps("proc/softirqs", errs)
	}
	c.softnetData, _ = c.read("proc/net/softnet_stat")
	if data, ok := c.read("proc/stat"); ok {
		var errs []error
		s.CPUTimes, errs = parseStat(data)
		c.gaps("proc/stat", errs)
	}
	if text, ok := c.text("proc/uptime"); ok {
		word, _, _ := strings.Cut(text, " ")
		if d, err := time.ParseDuration(word + "s"); err == nil && d > 0 {
			s.Uptime = d
		} else {
			c.gap("proc/uptime", fmt.Errorf("%q is not a time", clip(word)))
		}
	}
	c.protocols()
	c.conntrack()
}

func (c *collector) protocols() {
	out := Protocols{}
	if data, ok := c.read("proc/net/snmp"); ok {
		c.gaps("proc/net/snmp", parseProtocolPairs(data, out))
	}
	if data, ok := c.read("proc/net/netstat"); ok {
		c.gaps("proc/net/netstat", parseProtocolPairs(data, out))
	}
	// Absent where IPv6 is not built in, which is no gap.
	if data, err := c.h.ReadFile("proc/net/snmp6"); err == nil {
		c.gaps("proc/net/snmp6", parseSNMP6(data, out))
	} else if !errors.Is(err, fs.ErrNotExist) {
		c.gap("proc/net/snmp6", err)
	}
	if len(out) > 0 {
		c.s.Protocols = out
	}
}

func (c *collector) forwarding() {
	c.s.Forwarding = Forwarding{
		IPv4: c.tri("proc/sys/net/ipv4/ip_forward"),
		IPv6: c.tri("proc/sys/net/ipv6/conf/all/forwarding"),
	}
}

// tri reads a switch; what is neither 0 nor a positive number is unknown.
func (c *collector) tri(name string) Tri {
	text, ok := c.text(name)
	n, err := strconv.Atoi(text)
	switch {
	case !ok || err != nil || n < 0:
		return Unknown
	case n == 0:
		return No
	default:
		return Yes
	}
}

func (c *collector) identity() {
	s := c.s
	var err error
	if s.Ident, err = c.h.Ident(); err != nil {
		c.gap("uname", err)
	}
	if text, ok := c.read("proc/cmdline"); ok {
		s.Cmdline = parseCmdline(string(text))
	}
	if s.Links, err = c.h.Links(); err != nil {
		c.gap("netlink links", err)
	}
	if s.Processes, err = c.h.Processes(); err != nil {
		c.gap("processes", err)
	}
}

// topology reads the CPU tree and fills what it lacks from other sources: the
// columns of /proc/interrupts are the online CPUs, and the command line names
// the isolated ones.
func (c *collector) topology() {
	s := c.s
	var gaps []topo.Gap
	s.Topo, gaps = topo.Read(c.h.FS)
	for _, g := range gaps {
		c.gap(g.Source, errors.New(g.Reason))
	}
	t := s.Topo
	if !t.Known.Online {
		online := cpuset.Of(s.IRQs.CPUs...)
		if online.IsEmpty() {
			for cpu := range s.CPUTimes.CPUs {
				online = online.Union(cpuset.Of(cpu))
			}
		}
		if rows, _ := parseSoftnet(c.softnetData, online); online.IsEmpty() && rows.Identified {
			for _, r := range rows.Rows {
				online = online.Union(cpuset.Of(r.CPU))
			}
		}
		if online.IsEmpty() {
			// The columns of /proc/softirqs are possible CPUs; those where
			// nothing ever ran have most likely never been there.
			t.Online = liveSoftirqs(&s.Softirqs)
		}
		c.assumeOnline(online)
	}
	if !t.Known.Isolation && s.Cmdline != nil {
		t.Isolated, t.NohzFull = isolation(s.Cmdline, c.gap)
		t.Known.Isolation = true
	}
}

func (c *collector) assumeOnline(online cpuset.Set) {
	t := c.s.Topo
	if online.IsEmpty() {
		return
	}
	t.Online, t.Known.Online = online, true
	t.Present, t.Possible = t.Present.Union(online), t.Possible.Union(online)
	if t.CPUs == nil {
		t.CPUs = map[int]topo.CPU{}
	}
	for cpu := range online.All() {
		if _, ok := t.CPUs[cpu]; !ok {
			t.CPUs[cpu] = topo.CPU{ID: cpu, Package: topo.Unknown, Node: topo.Unknown, LLC: topo.Unknown, Core: topo.Unknown}
		}
	}
}

func isolation(cmdline map[string]string, gap func(string, error)) (isolated, nohz cpuset.Set) {
	if value, ok := cmdline["isolcpus"]; ok {
		domain, tickless, list := isolcpus(value)
		set, err := cpuset.ParseList(list)
		if err != nil {
			gap("proc/cmdline", fmt.Errorf("isolcpus: %w", err))
		}
		if domain {
			isolated = set
		}
		if tickless {
			nohz = set
		}
	}
	if value, ok := cmdline["nohz_full"]; ok {
		set, err := cpuset.ParseList(value)
		if err != nil {
			gap("proc/cmdline", fmt.Errorf("nohz_full: %w", err))
		}
		nohz = nohz.Union(set)
	}
	return isolated, nohz
}

func (c *collector) softnet() {
	if c.softnetData == nil {
		return
	}
	const source = "proc/net/softnet_stat"
	online := c.s.Topo.Online
	softnet, errs := parseSoftnet(c.softnetData, online)
	c.softnetData = nil
	if softnet.Identified && softnet.Columns <= softnetCPU {
		// The rows were tied to CPUs by position: only right if no CPU came
		// or went meanwhile.
		if text, ok := c.text("sys/devices/system/cpu/online"); ok {
			if now, err := cpuset.ParseList(text); err == nil && now != online {
				numberRows(&softnet)
				errs = append(errs, errors.New("CPUs came or went while the rows were read"))
			}
		}
	}
	c.s.Softnet = softnet
	c.gaps(source, errs)
}

func (c *collector) empty() bool {
	s := c.s
	return len(s.IRQs.CPUs) == 0 && len(s.Softirqs.CPUs) == 0 && len(s.Softnet.Rows) == 0 &&
		len(s.CPUTimes.CPUs) == 0 && len(s.Devices) == 0 && s.Topo.Online.IsEmpty() && s.Protocols == nil
}

func (c *collector) firstGap() string {
	if len(c.s.Gaps) == 0 {
		return "no source answered"
	}
	g := c.s.Gaps[0]
	return g.Source + ": " + g.Reason
}

// number reads a small file with one number.
func (c *collector) number(name string) (int, bool) {
	text, ok := c.text(name)
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		c.gap(name, fmt.Errorf("%q is not a number", clip(text)))
		return 0, false
	}
	return n, true
}

// set reads a CPU set from its list file, else from its mask file.
func (c *collector) set(listName, maskName string) (cpuset.Set, bool) {
	if text, ok := c.text(listName); ok {
		set, err := cpuset.ParseList(text)
		if err == nil {
			return set, true
		}
		c.gap(listName, err)
	}
	text, ok := c.text(maskName)
	if !ok || text == "" {
		return cpuset.Set{}, false
	}
	set, err := cpuset.ParseMask(text)
	if err != nil {
		c.gap(maskName, err)
		return cpuset.Set{}, false
	}
	return set, true
}
