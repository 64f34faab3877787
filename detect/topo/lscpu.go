package topo

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect/cpuset"
)

// lscpu reads the kept output of "lscpu -p" of a captured host without a sysfs
// tree. CPUs are online because lscpu -p lists only those. The columns are
// named in a comment; a bare two-column form holds CPU and socket.
func (r *reader) lscpu() bool {
	text, ok := r.text(lscpuFile)
	if !ok {
		return false
	}
	rows, err := parseLscpu(text)
	if err != nil {
		r.gap(lscpuFile, err)
		return false
	}
	r.gaps = nil // the tree is not missed where lscpu speaks for it
	r.fromLscpu(rows)
	return true
}

// lscpuRow is one CPU; Unknown where a column is missing or empty.
type lscpuRow struct{ cpu, core, socket, node, llc int }

func parseLscpu(text string) ([]lscpuRow, error) {
	columns := []string{"cpu", "socket"}
	var rows []lscpuRow
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if header, ok := strings.CutPrefix(line, "# CPU,"); ok {
			columns = append([]string{"cpu"}, strings.Split(strings.ToLower(header), ",")...)
			continue
		}
		if line == "" || line[0] == '#' {
			continue
		}
		row, err := parseLscpuRow(line, columns)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	if len(rows) == 0 {
		return nil, errors.New("no CPU in the output of lscpu")
	}
	return rows, nil
}

func parseLscpuRow(line string, columns []string) (lscpuRow, error) {
	fields := strings.Split(line, ",")
	if len(fields) == 1 {
		fields = strings.Fields(line)
	}
	row := lscpuRow{cpu: Unknown, core: Unknown, socket: Unknown, node: Unknown, llc: Unknown}
	for i, field := range fields {
		if i >= len(columns) || field == "" || field == "-" {
			continue
		}
		n, err := strconv.Atoi(field)
		if err != nil || n < 0 || n > cpuset.MaxCPU {
			return lscpuRow{}, fmt.Errorf("line %q: %q is not a number", clip(line), clip(field))
		}
		switch columns[i] {
		case "cpu":
			row.cpu = n
		case "core":
			row.core = n
		case "socket":
			row.socket = n
		case "node":
			row.node = n
		case "l2", "l3":
			row.llc = n // columns come in the order of levels
		}
	}
	if row.cpu == Unknown {
		return lscpuRow{}, fmt.Errorf("line %q: no CPU number", clip(line))
	}
	return row, nil
}

func (r *reader) fromLscpu(rows []lscpuRow) {
	t := r.topology
	t.cores, t.llcs = map[int]cpuset.Set{}, map[int]cpuset.Set{}
	cores, caches, nodes := map[int]cpuset.Set{}, map[int]cpuset.Set{}, map[int]cpuset.Set{}
	for _, row := range rows {
		one := cpuset.Of(row.cpu)
		t.Online = t.Online.Union(one)
		cores[row.core] = cores[row.core].Union(one)
		caches[row.llc] = caches[row.llc].Union(one)
		nodes[row.node] = nodes[row.node].Union(one)
	}
	for _, row := range rows {
		c := CPU{ID: row.cpu, Package: row.socket, Node: row.node, LLC: Unknown, Core: Unknown}
		if row.core != Unknown {
			c.Core = cores[row.core].Min()
			t.cores[c.Core] = cores[row.core]
		}
		if row.llc != Unknown {
			c.LLC = caches[row.llc].Min()
			t.llcs[c.LLC] = caches[row.llc]
		}
		t.CPUs[row.cpu] = c
	}
	t.Present, t.Possible = t.Online, t.Online
	delete(nodes, Unknown)
	for id := 0; len(nodes) > 0 && id <= cpuset.MaxCPU; id++ {
		if set, ok := nodes[id]; ok {
			t.Nodes = append(t.Nodes, Node{ID: id, CPUs: set, Distance: map[int]int{}, HasMemory: true})
			delete(nodes, id)
		}
	}
	t.Known = Known{Online: true, SMT: len(t.cores) > 0, LLC: len(t.llcs) > 0, Nodes: len(t.Nodes) > 0}
}
