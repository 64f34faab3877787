package archive

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/host"
)

// cpuRow is one CPU of a table of lscpu: its columns by name in lower case
// ("cpu", "core", "socket", "node", "l3", "online"), absent where not told.
type cpuRow map[string]string

// parseCPUTable reads the output of lscpu -p (columns named in a comment),
// lscpu -ae (columns named in the first line) and a bare table "cpu socket".
func parseCPUTable(text string) ([]cpuRow, error) {
	columns := []string{"cpu", "socket"}
	var rows []cpuRow
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if names, ok := strings.CutPrefix(line, "# "); ok && strings.HasPrefix(names, "CPU,") {
			columns = strings.Split(strings.ToLower(names), ",")
			continue
		}
		if strings.HasPrefix(line, "CPU ") {
			columns = strings.Fields(strings.ToLower(line))
			continue
		}
		if line == "" || line[0] == '#' {
			continue
		}
		row, err := parseCPURow(line, columns)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	if len(rows) == 0 {
		return nil, textError(text)
	}
	return rows, nil
}

func parseCPURow(line string, columns []string) (cpuRow, error) {
	fields := strings.Split(line, ",")
	if len(fields) == 1 {
		fields = strings.Fields(line)
	}
	row := cpuRow{}
	for i, field := range fields {
		if i >= len(columns) || field == "" || field == "-" {
			continue
		}
		// "L1d:L1i:L2:L3" is one column of lscpu -ae.
		names, values := strings.Split(columns[i], ":"), strings.Split(field, ":")
		for j := range min(len(names), len(values)) {
			if number := values[j]; names[j] == "online" || isNumber(number) {
				row[names[j]] = number
			}
		}
	}
	cpu, err := strconv.Atoi(row["cpu"])
	if err != nil || cpu < 0 || cpu > cpuset.MaxCPU {
		return nil, fmt.Errorf("line %q: no CPU number: %w", shorten(line), host.ErrInconclusive)
	}
	row["cpu"] = strconv.Itoa(cpu)
	return row, nil
}

func isNumber(text string) bool {
	_, err := strconv.ParseUint(text, 10, 31)
	return err == nil
}

// summary is what plain lscpu prints, by key.
type summary map[string]string

func parseSummary(text string) summary {
	s := summary{}
	lines(text, func(line string) {
		if key, value, ok := strings.Cut(line, ":"); ok {
			s[strings.TrimSpace(key)] = strings.TrimSpace(value)
		}
	})
	return s
}

// cpuFiles are files of sys/devices/system that follow from the output of
// lscpu, and nothing that it does not tell.
func cpuFiles(rows []cpuRow, s summary) map[string]string {
	f := cpuTree{files: map[string]string{}}
	for _, row := range rows {
		cpu, _ := strconv.Atoi(row["cpu"])
		one := cpuset.Of(cpu)
		f.present = f.present.Union(one)
		if row["online"] != "no" {
			f.online = f.online.Union(one)
		}
	}
	f.fromSummary(s)
	if f.online.IsEmpty() {
		return nil
	}
	f.present = f.present.Union(f.online)
	for name, set := range map[string]cpuset.Set{"online": f.online, "present": f.present, "possible": f.present} {
		f.put("cpu/"+name, set.String())
	}
	f.topology(rows, s["Thread(s) per core"] == "1")
	f.nodes(rows, s)
	return f.files
}

const systemRoot = "sys/devices/system/"

type cpuTree struct {
	files           map[string]string
	online, present cpuset.Set
}

func (f *cpuTree) put(name, value string) { f.files[systemRoot+name] = value + "\n" }

// fromSummary takes the CPU lists of plain lscpu.
func (f *cpuTree) fromSummary(s summary) {
	if online, err := cpuset.ParseList(s["On-line CPU(s) list"]); err == nil && f.online.IsEmpty() {
		f.online = online
	}
	if offline, err := cpuset.ParseList(s["Off-line CPU(s) list"]); err == nil {
		f.present = f.present.Union(offline)
	}
}

// topology writes what the table says of every CPU and of who shares with it.
// Where the table has no cores, single says that no core has two threads.
func (f *cpuTree) topology(rows []cpuRow, single bool) {
	cores, caches := map[string]cpuset.Set{}, map[string]cpuset.Set{}
	for _, row := range rows {
		if row["online"] == "no" {
			continue
		}
		cpu, _ := strconv.Atoi(row["cpu"])
		one := cpuset.Of(cpu)
		cores[row["core"]] = cores[row["core"]].Union(one)
		for _, level := range cacheLevels {
			key := level.column + " " + row[level.column]
			caches[key] = caches[key].Union(one)
		}
	}
	for _, row := range rows {
		if row["online"] == "no" {
			continue
		}
		base := "cpu/cpu" + row["cpu"] + "/"
		if socket, ok := row["socket"]; ok {
			f.put(base+"topology/physical_package_id", socket)
		}
		if core, ok := row["core"]; ok {
			f.put(base+"topology/core_id", core)
			f.put(base+"topology/thread_siblings_list", cores[core].String())
			f.put(base+"topology/core_cpus_list", cores[core].String())
		} else if single {
			f.put(base+"topology/thread_siblings_list", row["cpu"])
			f.put(base+"topology/core_cpus_list", row["cpu"])
		}
		for i, level := range cacheLevels {
			id, ok := row[level.column]
			if !ok {
				continue
			}
			index := fmt.Sprintf("%scache/index%d/", base, i)
			f.put(index+"level", level.level)
			f.put(index+"type", level.kind)
			f.put(index+"shared_cpu_list", caches[level.column+" "+id].String())
		}
	}
}

// cacheLevels are the columns of lscpu, in the order of the kernel's index
// folders.
var cacheLevels = [...]struct{ column, level, kind string }{
	{"l1d", "1", "Data"}, {"l1i", "1", "Instruction"}, {"l2", "2", "Unified"}, {"l3", "3", "Unified"},
}

// nodes writes the CPU list of every NUMA node, from the table or else from
// "NUMA node0 CPU(s)" of plain lscpu.
func (f *cpuTree) nodes(rows []cpuRow, s summary) {
	sets := map[int]cpuset.Set{}
	for _, row := range rows {
		node, err := strconv.Atoi(row["node"])
		cpu, _ := strconv.Atoi(row["cpu"])
		if err == nil && node >= 0 {
			sets[node] = sets[node].Union(cpuset.Of(cpu))
		}
	}
	for key, value := range s {
		number, ok := strings.CutPrefix(key, "NUMA node")
		number, ok2 := strings.CutSuffix(number, " CPU(s)")
		node, err := strconv.Atoi(number)
		set, bad := cpuset.ParseList(value)
		if ok && ok2 && err == nil && node >= 0 && bad == nil {
			sets[node] = set
		}
	}
	if len(sets) == 0 {
		return
	}
	numbers := slices.Collect(maps.Keys(sets))
	slices.Sort(numbers)
	ids := make([]string, len(numbers))
	for i, node := range numbers {
		ids[i] = strconv.Itoa(node)
		f.put("node/node"+ids[i]+"/cpulist", sets[node].String())
	}
	f.put("node/online", strings.Join(ids, ","))
}

// hypervisors maps the words of lscpu to those of systemd-detect-virt.
var hypervisors = map[string]string{
	"KVM": "kvm", "Xen": "xen", "VMware": "vmware", "Microsoft": "microsoft", "Oracle": "oracle",
	"QEMU": "qemu", "IBM": "powervm", "Parallels": "parallels",
}

// virtualization is what plain lscpu says of the hypervisor; "" if nothing. The
// line "Virtualization: VT-x" says what the CPU could do, not what it does.
func (s summary) virtualization() string { return hypervisors[s["Hypervisor vendor"]] }
