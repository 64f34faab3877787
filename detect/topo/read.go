package topo

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect/cpuset"
)

// Gap is one source that could not be read or believed.
type Gap struct {
	Source string // path below the root of the host
	Reason string
}

const (
	cpuRoot  = "sys/devices/system/cpu"
	nodeRoot = "sys/devices/system/node"
	// lscpuFile is what a sosreport keeps when the tree itself is missing.
	lscpuFile = "sos_commands/processor/lscpu_-p"
)

// littleShare is the part of the highest capacity or maximum frequency below
// which a core counts as little. Favoured cores of one kind differ by up to a
// tenth (turbo bins), while the slow cores of hybrid processors stay below
// 0.85 (Documentation/scheduler/sched-capacity.rst describes the scale).
const littleShare = 0.85

// Read reads the topology from sys/devices/system/{cpu,node} of fsys, which is
// rooted at "/". It never fails: what the host does not tell is left unknown
// in Topology.Known, and what could not be read or believed is a Gap. Only
// fixed paths are opened, because the trees contain symbolic link loops.
func Read(fsys fs.FS) (*Topology, []Gap) {
	r := reader{fsys: fsys, topology: &Topology{CPUs: map[int]CPU{}}}
	if fsys == nil {
		r.gap(cpuRoot, errors.New("not captured"))
		return r.topology, r.gaps
	}
	r.sets()
	if r.topology.Present.IsEmpty() && r.topology.Online.IsEmpty() {
		if r.lscpu() {
			return r.topology, r.gaps
		}
	}
	r.isolation()
	r.threads()
	r.nodes()
	r.little()
	return r.topology, r.gaps
}

type reader struct {
	fsys     fs.FS
	topology *Topology
	gaps     []Gap
	selfless bool // a set without its own CPU was seen
}

func (r *reader) gap(source string, err error) {
	g := Gap{Source: source, Reason: err.Error()}
	if !slices.Contains(r.gaps, g) { // some files are read for two purposes
		r.gaps = append(r.gaps, g)
	}
}

// text reads a small file. Captures made with dd or cat -v may carry NUL bytes
// after the line.
func (r *reader) text(name string) (string, bool) {
	data, err := fs.ReadFile(r.fsys, name)
	if err != nil {
		return "", false
	}
	return strings.Trim(string(data), " \t\n\x00"), true
}

// list reads a CPU set from the list file, or from the hex mask file of an
// older kernel. A damaged file is a gap and counts as missing.
func (r *reader) list(listName, maskName string) (cpuset.Set, bool) {
	if text, ok := r.text(listName); ok {
		set, err := cpuset.ParseList(text)
		if err == nil {
			return set, true
		}
		r.gap(listName, err)
	}
	if maskName == "" {
		return cpuset.Set{}, false
	}
	text, ok := r.text(maskName)
	if !ok || text == "" {
		return cpuset.Set{}, false
	}
	set, err := cpuset.ParseMask(text)
	if err != nil {
		r.gap(maskName, err)
		return cpuset.Set{}, false
	}
	return set, true
}

func (r *reader) number(name string) (int, bool) {
	text, ok := r.text(name)
	if !ok {
		return Unknown, false
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		r.gap(name, fmt.Errorf("%q is not a number", clip(text)))
		return Unknown, false
	}
	return n, true
}

func cpuPath(cpu int, rest string) string {
	return cpuRoot + "/cpu" + strconv.Itoa(cpu) + "/" + rest
}

// sets finds the possible, present and online CPUs. Kernels before 2.6.26 have
// no such files; there the cpuN directories count, without those whose
// "online" file says 0.
func (r *reader) sets() {
	t := r.topology
	dirs := r.dirs()
	var known bool
	if t.Present, known = r.list(cpuRoot+"/present", ""); !known {
		t.Present = dirs
	}
	if t.Online, t.Known.Online = r.list(cpuRoot+"/online", ""); !t.Known.Online && !dirs.IsEmpty() {
		t.Online, t.Known.Online = r.onlineByFlag(dirs), true
	}
	if t.Known.Online && t.Online.IsEmpty() {
		r.gap(cpuRoot+"/online", errors.New("no CPU is online, which cannot be"))
		t.Known.Online = false
	}
	t.Present = t.Present.Union(t.Online)
	t.Possible, _ = r.list(cpuRoot+"/possible", "")
	t.Possible = t.Possible.Union(t.Present)
	if !t.Known.Online && t.Present.IsEmpty() {
		r.gap(cpuRoot, errors.New("not captured"))
	}
}

func (r *reader) dirs() cpuset.Set {
	entries, err := fs.ReadDir(r.fsys, cpuRoot)
	if err != nil {
		return cpuset.Set{}
	}
	var cpus []int
	for _, e := range entries {
		if cpu, ok := numbered(e.Name(), "cpu"); ok {
			cpus = append(cpus, cpu)
		}
	}
	return cpuset.Of(cpus...)
}

func numbered(name, prefix string) (int, bool) {
	digits, ok := strings.CutPrefix(name, prefix)
	if !ok || digits == "" || digits[0] < '0' || digits[0] > '9' {
		return 0, false
	}
	n, err := strconv.Atoi(digits)
	return n, err == nil && n <= cpuset.MaxCPU
}

func (r *reader) onlineByFlag(dirs cpuset.Set) cpuset.Set {
	var offline []int
	for cpu := range dirs.All() {
		if text, ok := r.text(cpuPath(cpu, "online")); ok && text == "0" {
			offline = append(offline, cpu)
		}
	}
	return dirs.Minus(cpuset.Of(offline...))
}

// isolation reads isolcpus= and nohz_full= as the kernel understood them. The
// nohz_full file is missing where the feature is not configured
// (drivers/base/cpu.c), so only the isolated file decides whether it is known.
func (r *reader) isolation() {
	t := r.topology
	t.Isolated, t.Known.Isolation = r.list(cpuRoot+"/isolated", "")
	t.NohzFull, _ = r.list(cpuRoot+"/nohz_full", "")
}

// threads fills core, package, cache and speed of every online CPU. One member
// of a sharing set speaks for all, which keeps the number of files read
// proportional to cores and caches and not to CPUs.
func (r *reader) threads() {
	t := r.topology
	t.cores, t.llcs = map[int]cpuset.Set{}, map[int]cpuset.Set{}
	for cpu := range t.Online.All() {
		t.CPUs[cpu] = CPU{ID: cpu, Package: Unknown, Node: Unknown, LLC: Unknown, Core: Unknown}
	}
	pairs := r.pairsShareInstructionCache()
	for cpu := range t.Online.All() {
		if t.CPUs[cpu].Core == Unknown {
			r.core(cpu, pairs)
		}
		if t.CPUs[cpu].Package == Unknown {
			r.pkg(cpu)
		}
		if t.CPUs[cpu].LLC == Unknown {
			r.cache(cpu)
		}
		r.speed(cpu)
	}
	t.Known.SMT = r.all(func(c CPU) bool { return c.Core != Unknown })
	t.Known.LLC = r.all(func(c CPU) bool { return c.LLC != Unknown })
}

// all makes a relation known only if it is told of every CPU: half a relation
// would make the rest look like neighbours of nobody.
func (r *reader) all(told func(CPU) bool) bool {
	for _, c := range r.topology.CPUs {
		if !told(c) {
			return false
		}
	}
	return len(r.topology.CPUs) > 0
}

// sharers reads the CPUs that share something with cpu, from a list file or a
// mask file. A set without the CPU itself is damaged and counts as missing.
// Offline CPUs are left out: the kernel takes a dead CPU out of the sets, but
// captures put together from several reads keep it. So are CPUs that another
// set has claimed already, which keeps the sets disjoint on machines whose
// tables contradict each other.
func (r *reader) sharers(cpu int, claimed func(CPU) bool, listName, maskName string) (cpuset.Set, bool) {
	set, ok := r.list(cpuPath(cpu, listName), cpuPath(cpu, maskName))
	if ok && !set.Has(cpu) {
		r.once(cpuPath(cpu, listName), fmt.Errorf("CPU %d is not in its own set %q", cpu, clip(set.String())))
		return cpuset.Set{}, false
	}
	var taken []int
	for other := range set.All() {
		if c, online := r.topology.CPUs[other]; !online || claimed(c) {
			taken = append(taken, other)
		}
	}
	return set.Minus(cpuset.Of(taken...)), ok
}

// once records at most one such gap, because a damaged tree repeats itself for
// every CPU.
func (r *reader) once(source string, err error) {
	if !r.selfless {
		r.selfless = true
		r.gap(source, err)
	}
}

func (r *reader) core(cpu int, pairs bool) {
	claimed := func(c CPU) bool { return c.Core != Unknown }
	set, ok := r.sharers(cpu, claimed, "topology/core_cpus_list", "topology/core_cpus")
	if !ok {
		set, ok = r.sharers(cpu, claimed, "topology/thread_siblings_list", "topology/thread_siblings")
	}
	if !ok {
		return
	}
	if dir, found := r.instructionCache(cpu); pairs && found {
		shared, _ := r.sharers(cpu, claimed, dir+"/shared_cpu_list", dir+"/shared_cpu_map")
		set = set.Union(shared)
	}
	first := set.Min()
	r.topology.cores[first] = set
	r.assign(set, func(c *CPU) { c.Core = first })
}

func (r *reader) assign(set cpuset.Set, change func(*CPU)) {
	for cpu := range set.All() {
		c := r.topology.CPUs[cpu]
		change(&c)
		r.topology.CPUs[cpu] = c
	}
}

// pairsShareInstructionCache recognises AMD module pairs (family 15h): two
// "cores" with one instruction cache, decoder and FPU, which the kernel does
// not report as threads but which slow each other down like threads.
func (r *reader) pairsShareInstructionCache() bool {
	first := r.topology.Online.Min()
	if first < 0 {
		return false
	}
	anyone := func(CPU) bool { return false }
	threads, ok := r.sharers(first, anyone, "topology/thread_siblings_list", "topology/thread_siblings")
	if !ok {
		return false
	}
	dir, ok := r.instructionCache(first)
	if !ok {
		return false
	}
	shared, ok := r.sharers(first, anyone, dir+"/shared_cpu_list", dir+"/shared_cpu_map")
	return ok && shared.Len() == 2*threads.Len()
}

func (r *reader) instructionCache(cpu int) (dir string, found bool) {
	for k := range 2 {
		dir := "cache/index" + strconv.Itoa(k)
		kind, _ := r.text(cpuPath(cpu, dir+"/type"))
		level, _ := r.text(cpuPath(cpu, dir+"/level"))
		if kind == "Instruction" && level == "1" {
			return dir, true
		}
	}
	return "", false
}

func (r *reader) pkg(cpu int) {
	id, ok := r.number(cpuPath(cpu, "topology/physical_package_id"))
	if !ok || id < 0 {
		return
	}
	claimed := func(c CPU) bool { return c.Package != Unknown }
	set, ok := r.sharers(cpu, claimed, "topology/package_cpus_list", "topology/package_cpus")
	if !ok {
		set, _ = r.sharers(cpu, claimed, "topology/core_siblings_list", "topology/core_siblings")
	}
	r.assign(set.Union(cpuset.Of(cpu)), func(c *CPU) { c.Package = id })
}

// maxCaches bounds the walk over cache/indexK; no processor has as many.
const maxCaches = 16

func (r *reader) cache(cpu int) {
	bestLevel, best := 0, ""
	for k := range maxCaches {
		dir := "cache/index" + strconv.Itoa(k)
		level, ok := r.text(cpuPath(cpu, dir+"/level"))
		if !ok {
			break
		}
		kind, _ := r.text(cpuPath(cpu, dir+"/type"))
		n, err := strconv.Atoi(level)
		if err != nil || kind == "Instruction" {
			continue
		}
		if n > bestLevel {
			bestLevel, best = n, dir
		}
	}
	if bestLevel < 2 {
		return // a private first level says nothing about neighbourhood
	}
	claimed := func(c CPU) bool { return c.LLC != Unknown }
	set, ok := r.sharers(cpu, claimed, best+"/shared_cpu_list", best+"/shared_cpu_map")
	if !ok {
		return
	}
	first := set.Min()
	r.topology.llcs[first] = set
	r.assign(set, func(c *CPU) { c.LLC = first })
}

func (r *reader) speed(cpu int) {
	c := r.topology.CPUs[cpu]
	if text, ok := r.text(cpuPath(cpu, "cpu_capacity")); ok {
		c.Capacity = positive(text)
	}
	if text, ok := r.text(cpuPath(cpu, "cpufreq/cpuinfo_max_freq")); ok {
		c.MaxFreqKHz = positive(text)
	}
	r.topology.CPUs[cpu] = c
}

func positive(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// nodes reads the NUMA nodes. A CPU that several nodes claim has no node:
// firmware that says so (seen with all nodes listing all CPUs) is not to be
// believed.
func (r *reader) nodes() {
	entries, err := fs.ReadDir(r.fsys, nodeRoot)
	if err != nil {
		return
	}
	var ids []int
	for _, e := range entries {
		if id, ok := numbered(e.Name(), "node"); ok {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	withMemory, memoryTold := r.list(nodeRoot+"/has_memory", "")
	for _, id := range ids {
		node, ok := r.node(id, ids)
		node.HasMemory = !memoryTold || withMemory.Has(id)
		r.topology.Nodes = append(r.topology.Nodes, node)
		r.topology.Known.Nodes = r.topology.Known.Nodes || ok && !node.CPUs.IsEmpty()
	}
	r.nodeOfCPUs()
}

func (r *reader) node(id int, ids []int) (Node, bool) {
	dir := nodeRoot + "/node" + strconv.Itoa(id)
	node := Node{ID: id, Distance: map[int]int{}}
	// The mask is preferred because some kernels list offline CPUs in cpulist
	// (seen on POWER: cpulist 0-87, cpumap 0-15 with 0-15 online).
	set, ok := cpuset.Set{}, false
	if text, found := r.text(dir + "/cpumap"); found && text != "" {
		var err error
		if set, err = cpuset.ParseMask(text); err != nil {
			r.gap(dir+"/cpumap", err)
		}
		ok = err == nil
	}
	if !ok {
		set, ok = r.list(dir+"/cpulist", "")
	}
	if r.topology.Known.Online {
		set = set.Intersect(r.topology.Online)
	}
	node.CPUs = set
	r.distances(dir+"/distance", &node, ids)
	return node, ok
}

// distances reads one row of the distance matrix: one number per online node,
// in the order of node numbers (drivers/base/node.c, node_read_distance).
func (r *reader) distances(name string, node *Node, ids []int) {
	text, ok := r.text(name)
	if !ok || text == "" {
		return
	}
	fields := strings.Fields(text)
	if len(fields) != len(ids) {
		r.gap(name, fmt.Errorf("%d distances for %d nodes", len(fields), len(ids)))
		return
	}
	for i, field := range fields {
		n, err := strconv.Atoi(field)
		if err != nil {
			r.gap(name, fmt.Errorf("%q is not a distance", clip(field)))
			clear(node.Distance)
			return
		}
		node.Distance[ids[i]] = n
	}
}

func (r *reader) nodeOfCPUs() {
	claims := map[int]int{}
	for _, node := range r.topology.Nodes {
		for cpu := range node.CPUs.All() {
			claims[cpu]++
		}
	}
	twice := 0
	for _, node := range r.topology.Nodes {
		for cpu := range node.CPUs.All() {
			c, online := r.topology.CPUs[cpu]
			switch {
			case !online:
			case claims[cpu] > 1:
				twice++
			default:
				c.Node = node.ID
				r.topology.CPUs[cpu] = c
			}
		}
	}
	if twice > 0 {
		r.gap(nodeRoot, errors.New("several nodes claim the same CPU; the NUMA tables of this machine are not to be believed"))
	}
}

// little finds the CPUs of clearly slower cores: the kernel's own list on x86
// hybrids, else capacity, else maximum frequency, else the shape of the
// caches (clusters of single-threaded cores around one level-2 cache beside
// two-threaded cores with one each).
func (r *reader) little() {
	t := r.topology
	if set, ok := r.list("sys/devices/cpu_atom/cpus", ""); ok && !set.IsEmpty() {
		t.Little = set.Intersect(t.Online)
		return
	}
	for _, value := range []func(CPU) int{
		func(c CPU) int { return c.Capacity },
		func(c CPU) int { return c.MaxFreqKHz },
	} {
		if set, told := slower(t.CPUs, value); told {
			t.Little = set
			return
		}
	}
	t.Little = r.clustered()
}

// slower is told only if every CPU has the value.
func slower(cpus map[int]CPU, value func(CPU) int) (cpuset.Set, bool) {
	top := 0
	for _, c := range cpus {
		if value(c) == 0 {
			return cpuset.Set{}, false
		}
		top = max(top, value(c))
	}
	var out []int
	for id, c := range cpus {
		if float64(value(c)) < littleShare*float64(top) {
			out = append(out, id)
		}
	}
	return cpuset.Of(out...), len(cpus) > 0
}

// clustered reads the level-2 sharing sets only where single-threaded and
// two-threaded cores are mixed, which most machines are not.
func (r *reader) clustered() cpuset.Set {
	t := r.topology
	var wide, narrow []int
	for first, core := range t.cores {
		if core.Len() > 1 {
			wide = append(wide, first)
		} else {
			narrow = append(narrow, first)
		}
	}
	if len(wide) == 0 {
		return cpuset.Set{}
	}
	for _, cpu := range wide {
		if set, ok := r.l2(cpu); !ok || set != t.cores[cpu] {
			return cpuset.Set{}
		}
	}
	var little []int
	for _, cpu := range narrow {
		if set, ok := r.l2(cpu); ok && set.Len() > 1 {
			little = append(little, cpu)
		}
	}
	return cpuset.Of(little...)
}

func (r *reader) l2(cpu int) (cpuset.Set, bool) {
	for k := range maxCaches {
		dir := "cache/index" + strconv.Itoa(k)
		level, ok := r.text(cpuPath(cpu, dir+"/level"))
		if !ok {
			break
		}
		if level == "2" {
			return r.sharers(cpu, func(CPU) bool { return false }, dir+"/shared_cpu_list", dir+"/shared_cpu_map")
		}
	}
	return cpuset.Set{}, false
}

func clip(s string) string {
	const limit = 40
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}
