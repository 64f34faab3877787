package hosttest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/host"
)

// counters are the files that count what each CPU did, parsed, one per sample.
// A file that a sample does not have is nil and stays as it is.
type counters struct {
	interrupts []*table // /proc/interrupts
	softirqs   []*table // /proc/softirqs
	softnet    []*table // /proc/net/softnet_stat, turned: one row per counter
	stat       []*table // /proc/stat, turned likewise
	dirty      bool
	// network says which rows of interrupts belong to network devices, and
	// load holds their sum per sample and column since the first sample.
	network map[string]bool
	load    [][]uint64
}

// table is a file of counters per CPU.
type table struct {
	cpus   []int // CPU of each column
	header string
	rows   []*row
	labels map[string]*row
}

// row is one counter: its label, its value per column and the text after it.
type row struct {
	label  string
	counts []uint64
	rest   string
	text   string // the line as it was read, "" once counts were changed
	wide   bool   // 64 bits; all but /proc/stat wrap at 2^32
}

const (
	interruptsFile = "proc/interrupts"
	softirqsFile   = "proc/softirqs"
	softnetFile    = "proc/net/softnet_stat"
	statFile       = "proc/stat"
)

// parsed parses the counter files once.
func (m *Memory) parsed() (*counters, error) {
	if m.counts != nil {
		return m.counts, nil
	}
	c := &counters{}
	for i, s := range m.samples {
		online := m.online(s)
		for _, f := range []struct {
			name  string
			into  *[]*table
			parse func(string) (*table, error)
		}{
			{interruptsFile, &c.interrupts, parseColumns},
			{softirqsFile, &c.softirqs, parseColumns},
			{softnetFile, &c.softnet, func(text string) (*table, error) { return parseSoftnet(text, online) }},
			{statFile, &c.stat, parseStat},
		} {
			t, err := parseFile(s, f.name, f.parse)
			if err != nil {
				return nil, fmt.Errorf("sample %d: %w", i, err)
			}
			*f.into = append(*f.into, t)
		}
	}
	m.counts = c
	return c, nil
}

func parseFile(s *sample, name string, parse func(string) (*table, error)) (*table, error) {
	data, err := s.tree.ReadFile(name)
	if err != nil || len(bytes.TrimSpace(data)) == 0 {
		// Not captured, or hidden by a container runtime: nothing to move.
		return nil, nil
	}
	t, err := parse(string(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return t, nil
}

// parseColumns reads files with a header of CPUs and a labelled line per counter.
func parseColumns(text string) (*table, error) {
	header, body, _ := strings.Cut(text, "\n")
	t := &table{header: header, labels: map[string]*row{}}
	for field := range strings.FieldsSeq(header) {
		cpu, err := strconv.Atoi(strings.TrimPrefix(field, "CPU"))
		if err != nil || cpu < 0 || cpu > cpuset.MaxCPU {
			return nil, fmt.Errorf("column %q is not a CPU", field)
		}
		t.cpus = append(t.cpus, cpu)
	}
	for line := range strings.Lines(body) {
		line = strings.TrimRight(line, "\n")
		label, rest, ok := strings.Cut(line, ":")
		if !ok {
			t.rows = append(t.rows, &row{text: line})
			continue
		}
		r := &row{label: label, text: line}
		r.counts, r.rest = leadingNumbers(rest, len(t.cpus))
		t.rows = append(t.rows, r)
		if len(r.counts) == len(t.cpus) {
			t.labels[strings.TrimSpace(label)] = r
		}
	}
	return t, nil
}

// leadingNumbers reads up to limit numbers and gives back the rest of the line.
func leadingNumbers(text string, limit int) ([]uint64, string) {
	var out []uint64
	for len(out) < limit {
		trimmed := strings.TrimLeft(text, " ")
		end := strings.IndexByte(trimmed, ' ')
		if end < 0 {
			end = len(trimmed)
		}
		n, err := strconv.ParseUint(trimmed[:end], 10, 64)
		if err != nil {
			break
		}
		out, text = append(out, n), trimmed[end:]
	}
	return out, text
}

// parseSoftnet turns softnet_stat: column 13 is the CPU where it is there,
// else rows are the online CPUs in order (net/core/net-procfs.c).
func parseSoftnet(text string, online cpuset.Set) (*table, error) {
	t := &table{}
	known := online.CPUs()
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		values := make([]uint64, len(fields))
		for i, f := range fields {
			v, err := strconv.ParseUint(f, 16, 64)
			if err != nil {
				return nil, fmt.Errorf("%q is not a hex number", f)
			}
			values[i] = v
		}
		cpu := len(t.cpus)
		switch {
		case len(values) > softnetCPU && values[softnetCPU] <= cpuset.MaxCPU:
			cpu = int(values[softnetCPU])
		case cpu < len(known):
			cpu = known[cpu]
		}
		t.cpus = append(t.cpus, cpu)
		t.addColumn(values, false)
	}
	return t, nil
}

// Columns of softnet_stat (net/core/net-procfs.c, softnet_seq_show).
const (
	softnetProcessed = 0
	softnetDropped   = 1
	softnetSqueezed  = 2
	softnetCPU       = 12
)

func (t *table) addColumn(values []uint64, wide bool) {
	for i, v := range values {
		if i == len(t.rows) {
			t.rows = append(t.rows, &row{counts: make([]uint64, len(t.cpus)-1), wide: wide})
		}
		t.rows[i].counts = append(t.rows[i].counts, v)
	}
}

// Fields of a cpuN line of /proc/stat (fs/proc/stat.c).
const (
	statIdle    = 3
	statIRQ     = 5
	statSoftirq = 6
)

// parseStat turns the cpuN lines and keeps the others as text in the header.
func parseStat(text string) (*table, error) {
	t := &table{header: text}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 8 || !strings.HasPrefix(fields[0], "cpu") || fields[0] == "cpu" {
			continue
		}
		cpu, err := strconv.Atoi(fields[0][len("cpu"):])
		if err != nil || cpu < 0 || cpu > cpuset.MaxCPU {
			return nil, fmt.Errorf("line of %q is not of a CPU", fields[0])
		}
		values, _ := leadingNumbers(strings.Join(fields[1:], " "), len(fields)-1)
		t.cpus = append(t.cpus, cpu)
		t.addColumn(values, true)
	}
	return t, nil
}

// flush writes changed counters back into the trees.
func (m *Memory) flush() error {
	c := m.counts
	if c == nil || !c.dirty {
		return nil
	}
	for i, s := range m.samples {
		for _, f := range []struct {
			name   string
			t      *table
			render func(*table) []byte
		}{
			{interruptsFile, c.interrupts[i], (*table).columns},
			{softirqsFile, c.softirqs[i], (*table).columns},
			{softnetFile, c.softnet[i], (*table).softnet},
			{statFile, c.stat[i], (*table).stat},
		} {
			if f.t == nil {
				continue
			}
			if err := s.tree.WriteFile(f.name, f.render(f.t)); err != nil {
				return err
			}
		}
	}
	c.dirty = false
	return nil
}

func (t *table) columns() []byte {
	out := make([]byte, 0, len(t.header)+len(t.rows)*(len(t.cpus)*11+40))
	out = append(append(out, t.header...), '\n')
	for _, r := range t.rows {
		if r.text != "" || r.counts == nil {
			out = append(append(out, r.text...), '\n')
			continue
		}
		out = append(append(out, r.label...), ':')
		for _, n := range r.counts {
			out = appendPadded(append(out, ' '), n, 10)
		}
		out = append(append(out, r.rest...), '\n')
	}
	return out
}

func appendPadded(out []byte, n uint64, width int) []byte {
	digits := 1
	for v := n; v >= 10; v /= 10 {
		digits++
	}
	for ; digits < width; digits++ {
		out = append(out, ' ')
	}
	return strconv.AppendUint(out, n, 10)
}

func (t *table) softnet() []byte {
	var out bytes.Buffer
	for col := range t.cpus {
		for i, r := range t.rows {
			if col >= len(r.counts) {
				break
			}
			if i > 0 {
				out.WriteByte(' ')
			}
			fmt.Fprintf(&out, "%08x", r.counts[col])
		}
		out.WriteByte('\n')
	}
	return out.Bytes()
}

func (t *table) stat() []byte {
	var out bytes.Buffer
	col := 0
	for line := range strings.Lines(t.header) {
		name, _, _ := strings.Cut(line, " ")
		if col >= len(t.cpus) || name != "cpu"+strconv.Itoa(t.cpus[col]) {
			out.WriteString(line)
			continue
		}
		out.WriteString(name)
		for _, r := range t.rows {
			if col < len(r.counts) {
				fmt.Fprintf(&out, " %d", r.counts[col])
			}
		}
		out.WriteByte('\n')
		col++
	}
	return out.Bytes()
}

func (t *table) column(cpu int) int { return slices.Index(t.cpus, cpu) }

// find gives the row with a label; nil if there is none.
func (t *table) find(label string) *row {
	if t == nil {
		return nil
	}
	return t.labels[label]
}

func (t *table) row(i int) *row {
	if t == nil || i >= len(t.rows) {
		return nil
	}
	return t.rows[i]
}

// add changes one count, by a negative number in two's complement too.
func (r *row) add(column int, delta uint64) {
	r.counts[column] = r.cut(r.counts[column] + delta)
	r.text = ""
}

func (r *row) cut(n uint64) uint64 {
	if r.wide {
		return n
	}
	return uint64(uint32(n))
}

// since is how often the counter rose in each column from one sample to the
// next; with one sample, since boot.
func (r *row) since(first *row) []uint64 {
	out := slices.Clone(r.counts)
	if first == nil || first == r {
		return out
	}
	for i := range out {
		if i < len(first.counts) {
			out[i] = r.cut(out[i] - first.counts[i])
		}
	}
	return out
}

// online is the set of CPUs that run.
func (m *Memory) online(s *sample) cpuset.Set {
	if text, err := s.tree.ReadFile("sys/devices/system/cpu/online"); err == nil {
		if set, err := cpuset.ParseList(string(text)); err == nil && !set.IsEmpty() {
			return set
		}
	}
	// /proc/interrupts has a column for each online CPU (kernel/irq/proc.c).
	if text, err := s.tree.ReadFile(interruptsFile); err == nil {
		header, _, _ := bytes.Cut(text, []byte("\n"))
		if t, err := parseColumns(string(header)); err == nil && len(t.cpus) > 0 {
			return cpuset.Of(t.cpus...)
		}
	}
	return cpuset.Of(0)
}

// possible is the set of CPUs that could run; its size is nr_cpu_ids.
func (m *Memory) possible(s *sample) cpuset.Set {
	return m.cpuFile(s, "possible", m.online(s))
}

// housekeeping is the set of CPUs that RPS may use.
func (m *Memory) housekeeping(s *sample) cpuset.Set {
	none := cpuset.Set{}
	return m.possible(s).Minus(m.cpuFile(s, "isolated", none)).Minus(m.cpuFile(s, "nohz_full", none))
}

func (m *Memory) cpuFile(s *sample, name string, otherwise cpuset.Set) cpuset.Set {
	text, err := s.tree.ReadFile("sys/devices/system/cpu/" + name)
	if err != nil {
		return otherwise
	}
	set, err := cpuset.ParseList(string(text))
	if err != nil {
		return otherwise
	}
	return set
}

func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, host.ErrNotCaptured)
}
